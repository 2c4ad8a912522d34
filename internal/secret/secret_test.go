package secret_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/secret"
)

const canary = "Canary0123456789"

type outer struct {
	Shown  secret.Text
	hidden secret.Text
	inner  *outer
}

func TestNoFormOfPrintingShowsTheSecret(t *testing.T) {
	text := secret.New(canary)
	values := map[string]any{
		"value":   text,
		"pointer": &text,
		"fields":  outer{Shown: text, hidden: text, inner: &outer{hidden: text}},
		"slice":   []secret.Text{text},
		"map":     map[string]secret.Text{"k": text},
		"error":   fmt.Errorf("wrapped: %w, %v", errors.New("cause"), text),
	}
	for name, v := range values {
		var b bytes.Buffer
		for _, verb := range "vsqxXdtbcoUeEfgGpw" {
			for _, flag := range []string{"", "+", "#", " ", "-40", "040", ".3"} {
				fmt.Fprintf(&b, "%"+flag+string(verb)+"\n", v)
			}
		}
		fmt.Fprintln(&b, v)
		j, _ := json.Marshal(v)
		x, _ := xml.Marshal(v)
		b.Write(j)
		b.Write(x)
		slog.New(slog.NewJSONHandler(&b, nil)).Error("m", "v", v)
		slog.New(slog.NewTextHandler(&b, nil)).Error("m", "v", v)
		for _, form := range []string{canary, canary[:3], fmt.Sprintf("%x", canary[:6]), fmt.Sprintf("%X", canary[:6])} {
			if strings.Contains(b.String(), form) {
				t.Errorf("%s: %q was printed", name, form)
			}
		}
	}
}

func TestRevealAndEqual(t *testing.T) {
	a, b, none := secret.New(canary), secret.New(canary), secret.New("")
	if a.Reveal() != canary || !a.Equal(b) || a.Equal(none) || !none.IsZero() || none.Reveal() != "" {
		t.Error("a Text must give back what it was made of, and compare by it")
	}
}

func TestUnmarshalJSON(t *testing.T) {
	for in, want := range map[string]string{`"` + canary + `"`: canary, `""`: "", `null`: "", `"a\"b\u0041\n"`: "a\"bA\n", `"ä"`: "ä"} {
		var doc struct{ Token secret.Text }
		if err := json.Unmarshal([]byte(`{"Token":`+in+`}`), &doc); err != nil || doc.Token.Reveal() != want {
			t.Errorf("%s: %q, %v", in, doc.Token.Reveal(), err)
		}
	}
	var doc struct{ Token secret.Text }
	err := json.Unmarshal([]byte(`{"Token":["`+canary+`"]}`), &doc)
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("a list is not a secret, and its error must not show it: %v", err)
	}
}
