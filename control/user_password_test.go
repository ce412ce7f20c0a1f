package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPasswordRules(t *testing.T) {
	for _, test := range []struct{ name, password, code string }{
		{"two cases", "Qwerasdf", ""},
		{"lower case and special", "stringst-new", ""},
		{"digits and a space", "1234 5678", ""},
		{"all specials", "a`~!@#$%^&*()-_=+\\|[{}];:'\"", ""},
		{"the other specials", "a,<.>/? 1", ""},
		{"too short", "Qwerasd", "VPN.1308"},
		{"shortest", "Qwerasdf", ""},
		{"longest", "Qw" + strings.Repeat("e", 30), ""},
		{"too long", "Qw" + strings.Repeat("e", 31), "VPN.1308"},
		{"empty", "", "VPN.1308"},
		{"lower case alone", "qwerasdf", "VPN.1308"},
		{"upper case alone", "QWERASDF", "VPN.1308"},
		{"digits alone", "31415926", "VPN.1308"},
		{"specials alone", "!!!! !!!!", "VPN.1308"},
		{"chinese", "Qwerasdf密", "VPN.1310"},
		{"control character", "Qwerasdf\x00", "VPN.1310"},
		{"tab", "Qwer\tasdf", "VPN.1310"},
		{"name", "user-0001", "VPN.1309"},
		{"name backwards", "1000-resu", "VPN.1309"},
		{"name in another case", "User-0001", ""},
		{"name with more", "user-0001x", ""},
		{"common", "P@ssw0rd", "VPN.1314"},
		{"common in another case", "QWERTY123", "VPN.1314"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkPassword("user-0001", NewSecret(test.password))
			wantP2C(t, err, test.code)
			if err != nil && test.password != "" && strings.Contains(err.Error(), test.password) {
				t.Errorf("the refusal tells the password: %v", err)
			}
		})
	}
}

// A common password that another rule refuses anyway has no place in the list.
func TestCommonPasswordsPassTheOtherRules(t *testing.T) {
	for _, text := range commonPasswords {
		if err := checkPassword("user", NewSecret(text)); err == nil || !isCode(err, "VPN.1314") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestPasswordIsChanged(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("user-1")
	ctx := t.Context()
	change := func(old, next string) error {
		return w.ChangePassword(ctx, project, serverOfUsers, u.ID, NewSecret(old), NewSecret(next))
	}
	wantP2C(t, change("Qwerasdg", "Another-1"), "VPN.1312", "The old password is incorrect.")
	wantP2C(t, change("", "Another-1"), "VPN.1312")
	wantP2C(t, change(goodPassword, goodPassword), "VPN.1311")
	wantP2C(t, change(goodPassword, "short"), "VPN.1308")
	wantP2C(t, change(goodPassword, "Passw0rd"), "VPN.1314")
	for i := range 5 {
		old := fmt.Sprintf("Another-%d", i)
		if i == 0 {
			old = goodPassword
		}
		wantP2C(t, change(old, fmt.Sprintf("Another-%d", i+1)), "")
	}
	// The five used last are 1 to 5, so the first one of all is new again.
	for i := range 5 {
		wantP2C(t, change("Another-5", fmt.Sprintf("Another-%d", i+1)), "VPN.1311")
	}
	wantP2C(t, change("Another-5", goodPassword), "")
	wantP2C(t, change("Another-5", "Another-6"), "VPN.1312")
	wantP2C(t, w.ResetPassword(ctx, project, serverOfUsers, u.ID, NewSecret("Another-5")), "VPN.1311")
	wantP2C(t, w.ResetPassword(ctx, project, serverOfUsers, u.ID, NewSecret("Qwer-")), "VPN.1308")
	wantP2C(t, w.ResetPassword(ctx, project, serverOfUsers, u.ID, NewSecret("1-resu-1")), "")
	wantP2C(t, w.ResetPassword(ctx, project, serverOfUsers, nobody, NewSecret("Another-7")), "VPN.1303")
	if n := len(w.snapshot().Users[0].Passwords); n != passwordHistory {
		t.Errorf("%d passwords are remembered, want %d", n, passwordHistory)
	}
	if generation := w.showUser(u.ID).Generation; generation != 8 {
		t.Errorf("generation %d after 7 changes", generation)
	}
}

// Two who change a password at once cannot both succeed on the old one.
func TestPasswordIsChangedAtOnce(t *testing.T) {
	w := userWorld(t)
	u := w.addUser("user-1")
	ctx := t.Context()
	var errs [4]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = w.ChangePassword(ctx, project, serverOfUsers, u.ID, NewSecret(goodPassword), NewSecret(fmt.Sprintf("Another-%d", i)))
		})
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else {
			wantP2C(t, err, "VPN.1312")
		}
	}
	if done != 1 || len(w.snapshot().Users[0].Passwords) != 2 {
		t.Errorf("%d changes succeeded on the same old password", done)
	}
}

func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashingPlaces()
		var leaves []func()
		for i := range maxHashing {
			leave, err := h.enter(t.Context(), strconv.Itoa(i/maxProjectHashing))
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		// All places are taken: one more waits as long as patience lasts.
		start := time.Now()
		if _, err := h.enter(t.Context(), project); !isCode(err, CodeBusy) || time.Since(start) != hashingPatience {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.enter(gone, project); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that the caller left", err)
		}
		time.AfterFunc(hashingPatience/2, leaves[0])
		if _, err := h.enter(t.Context(), project); err != nil {
			t.Errorf("got %v, want the place that was given back", err)
		}
	})
}

// However much one project wants to be hashed, another one gets its turn.
func TestHashingOfOneProjectLeavesPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashingPlaces()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 3 * maxHashing {
			go func() { _, _ = h.enter(ctx, "project-2") }() // most wait until the test ends
		}
		synctest.Wait()
		start := time.Now()
		if _, err := h.enter(ctx, project); err != nil || time.Since(start) != 0 {
			t.Errorf("got %v after %v, want a place at once", err, time.Since(start))
		}
	})
}
