package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A flood is logged as ten lines of each message in a second, and one with the rest.
func TestUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		unseen := NewUnseen(slog.New(slog.NewJSONHandler(&b, nil)))
		for range 1000 {
			unseen("one", slog.Int(KeyStatus, 404))
		}
		for range 10 {
			unseen("other")
		}
		time.Sleep(unseenWindow + 1)
		synctest.Wait()
		unseen("one")
		lines, left := map[string]int{}, 0
		for line := range strings.Lines(b.String()) {
			var l struct {
				Msg     string
				LeftOut int `json:"left_out"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			lines[l.Msg]++
			left += l.LeftOut
		}
		if lines["one"] != 12 || lines["other"] != 10 || left != 990 {
			t.Errorf("%v lines, %d left out:\n%s", lines, left, b.String())
		}
		time.Sleep(unseenWindow + 1)
	})
}
