package caller

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4/json"
)

// Claims are the claims of a JWT. A number among them is exactly what the issuer
// wrote: an int64 or uint64 if it is an integer, however it is written (5, 5.0,
// 5e0), and otherwise a float64 that prints as it. A claim with any other number in
// it, at any depth, is Inexact.
type Claims map[string]any

// Inexact stands in place of a claim with a number that no type here holds exactly:
// an integer beyond 64 bits, or a fraction of too many digits. Rounded it would be
// equal to another number, so that it must not be compared with any.
type Inexact struct{}

// UnmarshalJSON reads a JSON object. A key that stands twice is an error.
func (c *Claims) UnmarshalJSON(document []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.SetNumberType(json.UnmarshalJSONNumber)
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the claims")
	}
	for name, value := range all {
		exact, ok := exactly(value)
		if !ok {
			exact = Inexact{}
		}
		all[name] = exact
	}
	*c = all
	return nil
}

// exactly is a value of JSON with its numbers as Claims has them; ok is false if one
// of them can't be.
func exactly(value any) (exact any, ok bool) {
	switch v := value.(type) {
	case json.Number:
		return Number(v.String())
	case map[string]any:
		for key, each := range v {
			if v[key], ok = exactly(each); !ok {
				return nil, false
			}
		}
	case []any:
		for i, each := range v {
			if v[i], ok = exactly(each); !ok {
				return nil, false
			}
		}
	}
	return value, true
}

// Number is the number that text writes in JSON: an int64, else a uint64, else a
// float64; ok is false if none of them is exactly that.
func Number(text string) (number any, ok bool) {
	negative, digits, exponent, ok := decimal(text)
	switch {
	case !ok:
		return nil, false
	case digits == "":
		return int64(0), true
	case exponent < 0: // a fraction, since digits do not end with 0
		f, err := strconv.ParseFloat(text, 64)
		_, shortest, e, _ := decimal(strconv.FormatFloat(f, 'e', -1, 64))
		return f, err == nil && shortest == digits && e == exponent
	case exponent > 20: // beyond 64 bits
		return nil, false
	}
	digits += strings.Repeat("0", exponent)
	if negative {
		digits = "-" + digits
	}
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return i, true
	}
	u, err := strconv.ParseUint(digits, 10, 64)
	return u, err == nil
}

// decimal takes a number apart: digits, without zeros at either end, times ten to
// the exponent. There are no digits in 0. A huge exponent costs nothing here.
func decimal(text string) (negative bool, digits string, exponent int, ok bool) {
	text, negative = strings.CutPrefix(text, "-")
	mantissa, power := text, "0"
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa, power = text[:i], text[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	if strings.Trim(digits, "0123456789") != "" || whole+fraction == "" {
		return false, "", 0, false
	}
	if digits == "" {
		return negative, "", 0, true
	}
	exponent, err := strconv.Atoi(power)
	const most = 1 << 20
	if err != nil || exponent < -most || exponent > most {
		return false, "", 0, false
	}
	trimmed := strings.TrimRight(digits, "0")
	return negative, trimmed, exponent - len(fraction) + len(digits) - len(trimmed), true
}
