package control

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	minPasswordLen = 8
	maxPasswordLen = 32
	// passwordHistory is how many passwords of a user are remembered, the
	// valid one among them.
	passwordHistory = 5

	// Passwords are hashed apart from any transaction, by no more requests at
	// once than memory and other work allow; who waits longer is told to come
	// back. One project leaves places to others.
	maxHashing        = 4 // 19 MiB each
	maxProjectHashing = 2
	hashingPatience   = 20 * time.Second
)

// passwordDraft is a password that is being decided on.
type passwordDraft struct{ name, text string }

// passwordRules are the rules for the password of a user, in the order that
// they are told. None tells anything of the password.
var passwordRules = []func(*passwordDraft) *Error{
	passwordHasLength,
	passwordCharactersAreKnown,
	passwordIsOfTwoClasses,
	passwordIsNotName,
	passwordIsNotCommon,
}

// checkPassword decides on the password of a user.
func checkPassword(name string, password Secret) error {
	return firstBroken(&passwordDraft{name: name, text: password.Reveal()}, passwordRules)
}

func passwordHasLength(d *passwordDraft) *Error {
	if n := len([]rune(d.text)); n < minPasswordLen || n > maxPasswordLen {
		err := simplePassword()
		err.rule = "Password length invalid."
		return err
	}
	return nil
}

func passwordCharactersAreKnown(d *passwordDraft) *Error {
	if strings.ContainsFunc(d.text, func(r rune) bool { return !isASCIIAlnum(r) && !isPasswordSpecial(r) }) {
		return refuse("VPN.1310", "The password contains invalid characters.")
	}
	return nil
}

func passwordIsOfTwoClasses(d *passwordDraft) *Error {
	classes := 0
	for _, class := range []func(rune) bool{
		func(r rune) bool { return r >= 'A' && r <= 'Z' },
		func(r rune) bool { return r >= 'a' && r <= 'z' },
		func(r rune) bool { return r >= '0' && r <= '9' },
		isPasswordSpecial,
	} {
		if strings.ContainsFunc(d.text, class) {
			classes++
		}
	}
	if classes < 2 {
		return simplePassword()
	}
	return nil
}

func isPasswordSpecial(r rune) bool { return r == ' ' || strings.ContainsRune(passwordSpecials, r) }

func simplePassword() *Error {
	return refuse("VPN.1308", "The password complexity does not meet requirements.")
}

func passwordIsNotName(d *passwordDraft) *Error {
	backwards := []rune(d.name)
	slices.Reverse(backwards)
	if d.text == d.name || d.text == string(backwards) {
		return refuse("VPN.1309", "The password cannot be the username or the reverse of the username.")
	}
	return nil
}

// commonPasswords are those that guessing begins with, in lower case, as far as
// the other rules would let them pass.
var commonPasswords = []string{
	"password1", "password12", "password123", "password@123", "passw0rd", "passw0rd1", "p@ssword", "p@ssw0rd", "p@ssw0rd1", "p@ssword123",
	"pa$$w0rd", "qwerty12", "qwerty123", "qwerty1234", "1q2w3e4r", "1q2w3e4r5t", "1qaz2wsx", "1qaz@wsx", "zaq12wsx", "q1w2e3r4",
	"abc12345", "abc123456", "abcd1234", "a1234567", "a12345678", "a123456789", "1234567a", "12345678a", "123456789a",
	"admin123", "admin1234", "admin@123", "welcome1", "welcome123", "welcome@123", "iloveyou1", "changeme1", "letmein1", "sunshine1",
}

func passwordIsNotCommon(d *passwordDraft) *Error {
	if slices.Contains(commonPasswords, strings.ToLower(d.text)) {
		return refuse("VPN.1314", "The password is weak.")
	}
	return nil
}

// passwordIsNew: hashes are those of the passwords that were used last.
func passwordIsNew(password Secret, hashes []PasswordHash) error {
	for _, used := range hashes {
		if used.Matches(password) {
			return refuse("VPN.1311", "The new password cannot be the same as the old one.")
		}
	}
	return nil
}

// hashingPlaces bounds how many requests hash and compare passwords of users at
// once, in all and of one project.
type hashingPlaces struct {
	all chan struct{}

	mu sync.Mutex
	of map[string]chan struct{} // by project
}

func newHashingPlaces() *hashingPlaces {
	return &hashingPlaces{all: make(chan struct{}, maxHashing), of: map[string]chan struct{}{}}
}

// enter waits for a place, of those of the project first: who waits there keeps
// nobody else out. Leave gives it back.
func (h *hashingPlaces) enter(ctx context.Context, project string) (leave func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, hashingPatience, Busy())
	defer cancel()
	own := h.placesOf(project)
	if err := take(ctx, own); err != nil {
		return nil, err
	}
	if err := take(ctx, h.all); err != nil {
		<-own
		return nil, err
	}
	return func() { <-h.all; <-own }, nil
}

func (h *hashingPlaces) placesOf(project string) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := h.of[project]
	if own == nil {
		own = make(chan struct{}, maxProjectHashing)
		h.of[project] = own
	}
	return own
}

func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
