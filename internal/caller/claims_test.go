package caller_test

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/teamtoken/teamtoken/internal/caller"
)

// A number is exactly what was written, or it is none.
func TestNumber(t *testing.T) {
	for text, want := range map[string]any{
		"0": int64(0), "-0": int64(0), "0.0": int64(0), "-0.0e99999999999": int64(0), "0e1": int64(0),
		"5": int64(5), "-5": int64(-5), "5.0": int64(5), "5e0": int64(5), "50e-1": int64(5), "0.5e1": int64(5), "1e3": int64(1000), "1E+3": int64(1000),
		"9007199254740991": int64(9007199254740991), "9007199254740992": int64(9007199254740992), "9007199254740993": int64(9007199254740993),
		"9007199254740993.0": int64(9007199254740993), "-9007199254740993": int64(-9007199254740993), "900719925474099.3e1": int64(9007199254740993),
		"9223372036854775807": int64(math.MaxInt64), "-9223372036854775808": int64(math.MinInt64),
		"9223372036854775808": uint64(1 << 63), "18446744073709551615": uint64(math.MaxUint64), "1e19": uint64(1e19),
		"18446744073709551616": nil, "-9223372036854775809": nil, "1e20": nil, "-1e19": nil, "1e309": nil, "1e99999999999999999999": nil,
		"1e-400": nil, "1e-99999999999999999999": nil, "-1e400": nil,
		"0.1": 0.1, "-2.5": -2.5, "2.50": 2.5, "25e-1": 2.5, "5e-324": 5e-324, "1.7976931348623157": 1.7976931348623157,
		"0.1000000000000000055511151231257827": nil, // which rounds to 0.1
		"0.10000000000000001":                  nil,
		"9007199254740993.5":                   nil,
		"":                                     nil, "-": nil, "NaN": nil, "Inf": nil, "0x10": nil, "1_000": nil, "+": nil, ".": nil, "1e": nil, "1e1.5": nil,
	} {
		got, ok := caller.Number(text)
		if ok != (want != nil) || ok && got != want {
			t.Errorf("%q is %T %v, %v, want %T %v", text, got, got, ok, want, want)
		}
	}
}

func FuzzNumber(f *testing.F) {
	for _, text := range []string{"0", "-0.0", "9007199254740993", "1e3", "1.5e-3", "18446744073709551616", "0.1", "1e999999999"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var n json.Number
		if json.Unmarshal([]byte(text), &n) != nil || n == "" || strings.ContainsAny(text, `" `) {
			return
		}
		number, ok := caller.Number(n.String())
		if !ok {
			return
		}
		if i := strings.IndexAny(text, "eE"); i >= 0 && len(text)-i > 5 {
			return // too dear for the reference below
		}
		want, _ := new(big.Rat).SetString(n.String())
		var got *big.Rat
		switch v := number.(type) {
		case int64:
			got = new(big.Rat).SetInt64(v)
		case uint64:
			got = new(big.Rat).SetUint64(v)
		case float64:
			if v == math.Trunc(v) {
				t.Errorf("%q is an integer, and %v", text, v)
			}
			written, _ := json.Marshal(v)
			got, _ = new(big.Rat).SetString(string(written))
		}
		if got.Cmp(want) != 0 {
			t.Errorf("%q is %T %v", text, number, number)
		}
	})
}

func TestClaims(t *testing.T) {
	var got caller.Claims
	err := json.Unmarshal([]byte(`{
		"tenant": 9007199254740993, "big": 1e20, "list": [1, 2.5, [18446744073709551615]], "deep": {"a": {"b": [0, 1e20]}}, "list of big": [1e20],
		"map": {"n": 1e3}, "text": "1e20", "none": null, "yes": true
	}`), &got)
	want := caller.Claims{
		"tenant": int64(9007199254740993), "big": caller.Inexact{}, "list": []any{int64(1), 2.5, []any{uint64(math.MaxUint64)}},
		"deep": caller.Inexact{}, "list of big": caller.Inexact{}, "map": map[string]any{"n": int64(1000)}, "text": "1e20", "none": nil, "yes": true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %#v", err, got)
	}
	for _, bad := range []string{`[]`, `1`, `"a"`, `{"a": 1, "a": 2}`, `{"a": {"b": 1, "b": 2}}`, `{"a": 01}`, `{"a": +1}`, `{"a": NaN}`, `{} {}`, `{`} {
		if err := new(caller.Claims).UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
