package control

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// No way of printing, logging or encoding a secret shows it, be it alone or
// inside of something else.
func TestSecretIsNeverShown(t *testing.T) {
	const text = "Sesame-open-1"
	s := NewSecret(text)
	holder := struct {
		S Secret
		P *Secret
		C Connection
		u Secret // fmt calls no methods of what is not exported
	}{s, &s, Connection{PSK: s}, s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T%v", "%10s", "%p"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", holder)
	}
	fmt.Fprintln(&out, s, &s, holder, fmt.Errorf("wrong: %v", s), s.String())
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("message", "secret", s, "pointer", &s, "holder", holder)
	}
	for _, v := range []any{s, &s, holder, map[string]Secret{"a": s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		y, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(y)
	}
	for _, form := range []string{text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text)))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the output shows the secret as %s:\n%s", form, out.String())
		}
	}
}

func TestSecretComparesAndReads(t *testing.T) {
	var read struct{ S Secret }
	if err := json.Unmarshal([]byte(`{"S":"text"}`), &read); err != nil || read.S.Reveal() != "text" {
		t.Errorf("read %q, %v", read.S.Reveal(), err)
	}
	if !read.S.Equal(NewSecret("text")) || read.S.Equal(NewSecret("text2")) || read.S.IsZero() || !(Secret{}).IsZero() {
		t.Error("comparison is wrong")
	}
}

func TestSealingKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	key, err := LoadSealingKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("%d files beside the key, %v", len(files)-1, err)
	}
	sealed := key.Seal(NewSecret("text"), "here")
	if again := key.Seal(NewSecret("text"), "here"); bytes.Equal(sealed, again) || bytes.Contains(sealed, []byte("text")) {
		t.Error("sealing shows what is equal, or the text")
	}
	reloaded, err := LoadSealingKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := reloaded.Open(sealed, "here"); err != nil || s.Reveal() != "text" {
		t.Errorf("opened %q, %v", s.Reveal(), err)
	}
	if _, err := key.Open(sealed, "there"); err == nil {
		t.Error("opened in another place")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := key.Open(damaged, "here"); err == nil {
			t.Errorf("opened with octet %d damaged", i)
		}
	}
	for n := range sealed {
		if _, err := key.Open(sealed[:n], "here"); err == nil {
			t.Errorf("opened when cut to %d octets", n)
		}
	}
	other, err := LoadSealingKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed, "here"); err == nil {
		t.Error("opened with another key")
	}
}

func TestSealingKeyFileIsChecked(t *testing.T) {
	good := strings.Repeat("0a", 32)
	for _, test := range []struct {
		name, text string
		mode       os.FileMode
		want       string // of the error; empty: none
	}{
		{"good", good + "\n", 0o600, ""},
		{"without a newline", good, 0o400, ""},
		{"readable by the group", good, 0o640, "0600"},
		{"readable by all", good, 0o604, "0600"},
		{"too short", good[2:], 0o600, "64 hexadecimal digits"},
		{"too long", good + "0a", 0o600, "64 hexadecimal digits"},
		{"no digits", strings.Repeat("zz", 32), 0o600, "64 hexadecimal digits"},
		{"empty", "", 0o600, "sealing key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(test.text), test.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadSealingKey(path)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an error with %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), "0a0a"):
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
	if _, err := LoadSealingKey(filepath.Join(t.TempDir(), "none", "key")); err == nil {
		t.Error("made a key in a directory that is not there")
	}
}
