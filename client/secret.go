package client

import "log/slog"

// Secret is a token's secret. It prints as `[secret]`, by whatever prints it; Reveal
// shows it.
type Secret struct{ text *string }

// NewSecret holds a text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal is the secret itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

const hidden = "[secret]"

// String does not show it.
func (Secret) String() string { return hidden }

// GoString does not show it.
func (Secret) GoString() string { return hidden }

// LogValue does not show it.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText does not show it.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
