package sslvpn

import (
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

var codeSecret = []byte("12345678901234567890") // of RFC 6238, appendix B

// The vectors have eight digits; six are their end.
func TestOneTimeCode(t *testing.T) {
	for seconds, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130",
	} {
		if got := oneTimeCode(codeSecret, stepOf(time.Unix(seconds, 0))); string(got) != want[2:] {
			t.Errorf("at %d: %s, want %s", seconds, got, want[2:])
		}
	}
}

func TestUsedCodes(t *testing.T) {
	start := time.Unix(1700000010, 0) // a step begins
	u := newUsedCodes(start)
	code := func(at time.Time) []byte { return oneTimeCode(codeSecret, stepOf(at)) }
	for _, tt := range []struct {
		what string
		user string
		now  time.Duration
		code []byte
		want codeVerdict
	}{
		{"from before the start", "a", 0, code(start.Add(-codeStep)), codeUsed},
		{"of the start", "a", 0, code(start), codeUsed},
		{"that a fast clock could have shown before the start", "a", 29 * time.Second, code(start.Add(codeStep)), codeUsed},
		{"the first", "a", 30 * time.Second, code(start.Add(2 * codeStep)), codeRight},
		{"again", "a", 31 * time.Second, code(start.Add(2 * codeStep)), codeUsed},
		{"of another user", "b", 31 * time.Second, code(start.Add(2 * codeStep)), codeRight},
		{"no code", "a", 2 * time.Minute, nil, codeWrong},
		{"a short one", "a", 2 * time.Minute, code(start.Add(2 * time.Minute))[:5], codeWrong},
		{"next", "a", 2 * time.Minute, code(start.Add(2 * time.Minute)), codeRight},
		{"older than the last", "a", 2 * time.Minute, code(start.Add(90 * time.Second)), codeUsed},
		{"two steps late", "a", 10 * time.Minute, code(start.Add(9 * time.Minute)), codeWrong},
		{"two steps early", "a", 10 * time.Minute, code(start.Add(11 * time.Minute)), codeWrong},
		{"a step late", "a", 10 * time.Minute, code(start.Add(10*time.Minute - codeStep)), codeRight},
	} {
		if got := u.take(start.Add(tt.now), tt.user, codeSecret, tt.code); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, got, tt.want)
		}
	}
	for i := range 2 * maxUsedCodes {
		at := start.Add(time.Duration(i) * time.Hour)
		u.take(at.Add(time.Hour), string(rune(i)), codeSecret, code(at.Add(time.Hour)))
	}
	if len(u.last) > maxUsedCodes {
		t.Errorf("%d users are remembered", len(u.last))
	}
}

// A second factor is asked for besides the password, each code counts once, and
// failures are told apart in the log alone.
func TestSecondFactor(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) {
		s.cfg.OneTimeCodes, s.cfg.Users[0].CodeSecret = true, codeSecret
	})
	now := stepOf(time.Now())
	s.endpoint().codes.start = now - 10 // long ago
	code := string(oneTimeCode(codeSecret, now))
	wrong := string(oneTimeCode(codeSecret, now-7))
	const refused = "AUTH_FAILED,user name, password or one-time code is wrong"
	for _, tt := range []struct{ user, password, code, told, reason string }{
		{"alice", "wonderland", "", "AUTH_FAILED,a one-time code is needed", "a one-time code is needed"},
		{"alice", "wrong", code, refused, "wrong password"},
		{"alice", "wonderland", wrong, refused, "wrong one-time code"},
		{"bob", "builder", code, refused, "the user has no second factor yet"},
		{"mallory", "wonderland", code, refused, "unknown user"},
	} {
		if told := s.dial("tcp").refused(s.trust(nil), tt.user, wire.AnswerChallenge(tt.password, tt.code)); !strings.HasPrefix(told, tt.told) {
			t.Errorf("%s is told %q, want %q", tt.user, told, tt.told)
		}
		if e := s.event(EventAuthFailed); !strings.HasPrefix(e.Reason, tt.reason) {
			t.Errorf("reason %q, want %q", e.Reason, tt.reason)
		}
	}
	c := s.connected("tcp", "alice", wire.AnswerChallenge("wonderland", code))
	if !s.reaches(c, "192.168.77.1") {
		t.Error("a packet did not arrive")
	}
	if told := s.dial("tcp").refused(s.trust(nil), "alice", wire.AnswerChallenge("wonderland", code)); !strings.Contains(told, "used before") {
		t.Errorf("the same code again: %q", told)
	}
	s.connected("tcp", "alice", c.push.AuthToken) // asks for no code
	if n := s.server.Snapshot()[0].LoginFailures; n["wrong_code"] != 3 || n["used_code"] != 1 || n["wrong_password"] != 1 {
		t.Errorf("counted: %v", n)
	}
	if log := s.log.String(); strings.Contains(log, code) || strings.Contains(log, "wonderland") {
		t.Error("a secret is in the log")
	}

	// Another secret ends the session and its token.
	s.cfg.Users[0].CodeSecret = []byte("another secret, of 28 octets")
	s.apply()
	if e := s.event(EventDisconnected); e.Reason != "the second factor was changed" {
		t.Errorf("event %+v", e)
	}
	if told := s.dial("tcp").refused(s.trust(nil), "alice", c.push.AuthToken); !strings.HasPrefix(told, "AUTH_FAILED,SESSION:") {
		t.Errorf("the token of before: %q", told)
	}
	// So does none.
	s.cfg.Users[0].CodeSecret = nil
	s.apply()
	if told := s.dial("tcp").refused(s.trust(nil), "alice", c.push.AuthToken); !strings.HasPrefix(told, "AUTH_FAILED,SESSION:") {
		t.Errorf("the token without a second factor: %q", told)
	}
}

// Guesses of codes are slowed down like those of passwords.
func TestCodesAreThrottled(t *testing.T) {
	s := newRig(t, Options{}, func(s *rig) {
		s.cfg.OneTimeCodes, s.cfg.Users[0].CodeSecret = true, codeSecret
	})
	wrong := string(oneTimeCode(codeSecret, stepOf(time.Now())-7))
	for range freeByUser + 1 {
		s.dial("tcp").refused(s.trust(nil), "alice", wire.AnswerChallenge("wonderland", wrong))
	}
	if told := s.dial("tcp").refused(s.trust(nil), "alice", wire.AnswerChallenge("wonderland", wrong)); !strings.Contains(told, "too many failed logins") {
		t.Errorf("told %q", told)
	}
}
