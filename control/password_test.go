package control

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

var testHash = hashWithSalt(NewSecret("hashed password"), []byte("0123456789abcdef"))

// The vector of the reference implementation for argon2id, version 19, with
// m=65536, t=2, p=1 and the salt "somesalt".
const referenceHash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

func TestPasswordHash(t *testing.T) {
	h, err := HashPassword(NewSecret("correct horse"), nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePasswordHash(h.Encode())
	if err != nil || again != h {
		t.Fatalf("%v, want the hash that was encoded", err)
	}
	other, err := HashPassword(NewSecret("correct horse"), nil)
	if err != nil || other == h {
		t.Errorf("two hashes of one password are equal (%v)", err)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct hors": false, "": false, strings.Repeat("x", maxPassword+1): false} {
		if got := again.Matches(NewSecret(password)); got != want {
			t.Errorf("password of %d characters matches: %v, want %v", len(password), got, want)
		}
	}
	if (PasswordHash{}).Matches(Secret{}) {
		t.Error("no hash matches no password")
	}
	reference, err := ParsePasswordHash(referenceHash)
	if err != nil || !reference.Matches(NewSecret("password")) {
		t.Errorf("the vector of the reference implementation does not match (%v)", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if shown := fmt.Sprintf(verb, h); shown != hidden {
			t.Errorf("%s shows %s", verb, shown)
		}
	}
	for _, size := range []int{0, maxPassword + 1} {
		if _, err := HashPassword(NewSecret(strings.Repeat("x", size)), nil); err == nil {
			t.Errorf("a password of %d octets was hashed", size)
		}
	}
}

func TestParsePasswordHashRefuses(t *testing.T) {
	for _, test := range []struct{ name, old, new string }{
		{"nothing", referenceHash, ""},
		{"plain text", referenceHash, "password"},
		{"other function", "argon2id", "argon2i"},
		{"other version", "v=19", "v=16"},
		{"no version", "v=19$", ""},
		{"more parts", "$m=", "$x$m="},
		{"order", "m=65536,t=2", "t=2,m=65536"},
		{"cheap", "m=65536", "m=8191"},
		{"dear", "m=65536", "m=262145"},
		{"leading zero", "m=65536", "m=065536"},
		{"no passes", "t=2", "t=0"},
		{"many passes", "t=2", "t=11"},
		{"no lanes", "p=1", "p=0"},
		{"many lanes", "p=1", "p=9"},
		{"overflow", "p=1", "p=257"},
		{"trailing parameter", "p=1", "p=1,x=1"},
		{"short salt", "c29tZXNhbHQ", "c29tZQ"},
		{"salt", "c29tZXNhbHQ", "c29t*XNhbHQ"},
		{"short hash", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "CTFhFdXPJO0"},
		{"line end", "GRPPc", "GRPPc\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(referenceHash, test.old, test.new, 1)
			if text == referenceHash {
				t.Fatalf("%q is not in the hash", test.old)
			}
			if _, err := ParsePasswordHash(text); err == nil || strings.Contains(err.Error(), "c29t") {
				t.Errorf("got %v, want an error without the text", err)
			}
		})
	}
}

func FuzzParsePasswordHash(f *testing.F) {
	target := fuzztest.New(f)
	target.Add(referenceHash)
	target.Add("$argon2id$v=19$m=8192,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	target.Fuzz(func(t *testing.T, text string) {
		if h, err := ParsePasswordHash(text); err == nil && h.Encode() != text {
			t.Errorf("%q became %q", text, h.Encode())
		}
	})
}
