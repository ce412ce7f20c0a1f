package wire

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// Text messages of the control channel. Each is one TLS record, ended by a NUL.
const (
	PushRequest = "PUSH_REQUEST"
	Exit        = "EXIT"
	PushReply   = "PUSH_REPLY"
	PushUpdate  = "PUSH_UPDATE"
	AuthFailed  = "AUTH_FAILED"
	Restart     = "RESTART"
	Halt        = "HALT"
)

const (
	// MaxMessage is the longest text message, in octets with its NUL: stock
	// clients build and expect pieces of this size.
	MaxMessage = 1024
	// maxReason is the longest text that tells a person why.
	maxReason = 200
)

// CutMessage splits the first text message off a TLS stream. ok is false while
// its NUL is to come. A message with an octet that does not print is an error as
// a whole: such a thing must reach no log.
func CutMessage(b []byte) (message string, rest []byte, ok bool, err error) {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		if len(b) >= 2*MaxMessage {
			return "", nil, false, fmt.Errorf("%w: message of more than %d octets", ErrMalformed, 2*MaxMessage)
		}
		return "", b, false, nil
	}
	rest = b[end+1:]
	text := strings.TrimRight(string(b[:end]), "\r\n")
	if !printable(text) {
		return "", rest, true, fmt.Errorf("%w: message with octets that do not print", ErrMalformed)
	}
	return text, rest, true, nil
}

// AppendMessage appends a text message with its NUL.
func AppendMessage(b []byte, message string) []byte {
	return append(append(b, message...), 0)
}

// RefuseLogin returns the AUTH_FAILED message with a text for people. Stock
// clients ask for other credentials, or exit.
func RefuseLogin(reason string) string {
	if reason = text(reason); reason == "" {
		return AuthFailed
	}
	return AuthFailed + "," + reason
}

// RefuseForNow returns the AUTH_FAILED message that makes a client try again
// after some seconds. Clients that lack ProtoAuthTemp take it for a refusal.
func RefuseForNow(seconds int, reason string) string {
	return fmt.Sprintf("%s,TEMP[backoff %d,advance no]:%s", AuthFailed, seconds, text(reason))
}

// RefuseToken returns the AUTH_FAILED message that makes a client come back with
// its password in place of its auth-token.
func RefuseToken(reason string) string { return AuthFailed + ",SESSION:" + text(reason) }

// RestartClient returns the message that makes a client connect anew with the
// credentials it has.
func RestartClient(reason string) string { return Restart + ",[P]:" + text(reason) }

// HaltClient returns the message that makes a client exit.
func HaltClient(reason string) string { return Halt + "," + text(reason) }

// text makes a reason fit for a message.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
	return shorten(s, maxReason)
}

// Password splits what a client sent in the place of its password: with a static
// challenge it carries the answer beside the password.
func Password(field []byte) (password, answer []byte, err error) {
	rest, ok := bytes.CutPrefix(field, []byte("SCRV1:"))
	if !ok {
		return field, nil, nil
	}
	p, a, ok := bytes.Cut(rest, []byte(":"))
	if !ok {
		return nil, nil, fmt.Errorf("%w: answer to a static challenge", ErrMalformed)
	}
	if password, err = base64.StdEncoding.AppendDecode(nil, p); err != nil {
		return nil, nil, fmt.Errorf("%w: password of a static challenge is no base64", ErrMalformed)
	}
	if answer, err = base64.StdEncoding.AppendDecode(nil, a); err != nil {
		return nil, nil, fmt.Errorf("%w: answer to a static challenge is no base64", ErrMalformed)
	}
	return password, answer, nil
}

// AnswerChallenge is what a client sends in the place of its password when it
// answers a static challenge, as Password reads it. An empty answer is none.
func AnswerChallenge(password, answer string) string {
	if answer == "" {
		return password
	}
	encode := base64.StdEncoding.EncodeToString
	return "SCRV1:" + encode([]byte(password)) + ":" + encode([]byte(answer))
}
