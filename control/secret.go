package control

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

const hidden = "[hidden]"

// Secret is a text that must not be shown: formatting, logging and encoding it
// yield a placeholder. Reveal is the only way to the text. Compare secrets with
// Equal.
type Secret struct {
	// fmt calls no method of what stands in an unexported field, but it
	// follows no pointer there either.
	text *string
}

// NewSecret returns the secret of a text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells whether there is no text.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Equal compares two secrets in time that does not depend on where they
// differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns a placeholder.
func (s Secret) String() string { return hidden }

// Format writes a placeholder for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText returns a placeholder. It serves JSON and YAML alike.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// UnmarshalText reads the text, so that a configuration may hold a secret.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }
