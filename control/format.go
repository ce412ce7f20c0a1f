package control

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// parser reads the members of a request into an object. After the first
// member that breaks a rule it does nothing more, and err says which it was.
type parser struct{ err *Error }

func (p *parser) fail(field, rule string, args ...any) {
	if p.err == nil {
		p.err = Invalid(field, rule, args...)
	}
}

// result returns the first broken rule, if any, as an error.
func (p *parser) result() error {
	if p.err == nil {
		return nil
	}
	return p.err
}

// text reads a name that must be one of those allowed.
func text[T ~string](p *parser, field string, v *string, to *T, allowed ...T) {
	if v == nil {
		return
	}
	if !slices.Contains(allowed, T(*v)) {
		p.fail(field, "must be one of %s", oneOf(allowed))
		return
	}
	*to = T(*v)
}

func oneOf[T ~string](allowed []T) string {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return strings.Join(names, ", ")
}

// number reads a number that must lie in a range, ends included.
func number[T, N int | int64 | uint32](p *parser, field string, v *T, to *N, lowest, highest int64) {
	if v == nil {
		return
	}
	if int64(*v) < lowest || int64(*v) > highest {
		p.fail(field, "must be from %d to %d", lowest, highest)
		return
	}
	*to = N(*v)
}

func boolean(v, to *bool) {
	if v != nil {
		*to = *v
	}
}

// name reads the name of an object: 1 to 64 digits, Latin letters, Chinese
// characters, underscores, hyphens and dots.
func (p *parser) name(field string, v, to *string) {
	if v == nil {
		return
	}
	if n := utf8.RuneCountInString(*v); n < 1 || n > maxNameLen {
		p.fail(field, "must have 1 to %d characters", maxNameLen)
		return
	}
	for _, r := range *v {
		if !isASCIIAlnum(r) && (r < '\u4e00' || r > '\u9fa5') && !strings.ContainsRune("_-.", r) {
			p.fail(field, "may hold letters, digits, Chinese characters, '_', '-' and '.' only")
			return
		}
	}
	*to = *v
}

// plainName reads a name as name does, but without dots.
func (p *parser) plainName(field string, v, to *string) {
	if v != nil && strings.Contains(*v, ".") {
		p.fail(field, "may hold letters, digits, Chinese characters, '_' and '-' only")
	}
	p.name(field, v, to)
}

func isASCIIAlnum(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// id reads an id that refers to another object or to the cloud around. That
// it exists is another rule's business.
func (p *parser) id(field string, v, to *string) {
	if v == nil {
		return
	}
	if n := len(*v); n < 1 || n > 64 {
		p.fail(field, "must have 1 to 64 characters")
		return
	}
	*to = *v
}

// enterpriseProject reads the id of an enterprise project: "0", the default
// one, or a UUID.
func (p *parser) enterpriseProject(field string, v, to *string) {
	if v == nil {
		return
	}
	if *v != defaultEnterpriseProject && !isUUID36(*v) {
		p.fail(field, "must be \"0\" or a UUID of 36 characters")
		return
	}
	*to = *v
}

func isUUID36(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (r == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return false
		}
	}
	return true
}

// tags reads the tags of an object.
func (p *parser) tags(field string, v []Tag, to *[]Tag) {
	if v == nil {
		return
	}
	if len(v) > maxTags {
		p.fail(field, "must be at most %d", maxTags)
		return
	}
	keys := map[string]bool{}
	for i, tag := range v {
		p.tagText(fmt.Sprintf("%s[%d].key", field, i), tag.Key, 1, 128)
		p.tagText(fmt.Sprintf("%s[%d].value", field, i), tag.Value, 0, 255)
		if keys[tag.Key] {
			p.fail(fmt.Sprintf("%s[%d].key", field, i), "must be unique")
		}
		keys[tag.Key] = true
	}
	*to = slices.Clone(v)
}

// tagValue reads a value that may have what the values of other clouds have.
func (p *parser) tagValue(field, s string) {
	p.tagText(field, strings.ReplaceAll(s, "/", "_"), 0, 255)
}

func (p *parser) tagText(field, s string, shortest, longest int) {
	if n := utf8.RuneCountInString(s); n < shortest || n > longest {
		p.fail(field, "must have %d to %d characters", shortest, longest)
	}
	for _, r := range s {
		if !unicode.IsDigit(r) && !unicode.IsLetter(r) && !strings.ContainsRune(" _.:=+-@", r) {
			p.fail(field, "may hold letters, digits, spaces and _.:=+-@ only")
			return
		}
	}
}

// prefixes reads a list of networks of one family.
func (p *parser) prefixes(field string, family IPVersion, v []string, most int) []netip.Prefix {
	if len(v) > most {
		p.fail(field, "must be at most %d", most)
		return nil
	}
	out := make([]netip.Prefix, 0, len(v))
	for i, s := range v {
		n := p.prefix(fmt.Sprintf("%s[%d]", field, i), family, s)
		if slices.Contains(out, n) {
			p.fail(fmt.Sprintf("%s[%d]", field, i), "%s stands there twice", n)
		}
		out = append(out, n)
	}
	return out
}

// prefix reads a network of one family. Host bits must be zero: where they
// are not, it is unclear what was meant.
func (p *parser) prefix(field string, family IPVersion, s string) netip.Prefix {
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil || n.Addr().Is4() != (family == IPv4) || n.Addr().Is4In6():
		p.fail(field, "must be an %s network such as %s", familyName[family], sampleNetwork[family])
	case n != n.Masked():
		p.fail(field, "has host bits set; the network is %s", n.Masked())
	}
	return n
}

var (
	familyName    = map[IPVersion]string{IPv4: "IPv4", IPv6: "IPv6"}
	sampleNetwork = map[IPVersion]string{IPv4: "192.168.52.0/24", IPv6: "2001:db8:1::/48"}
)

// ipv4 reads an IPv4 address.
func (p *parser) ipv4(field, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		p.fail(field, "must be an IPv4 address")
		return netip.Addr{}
	}
	return a
}

// address reads an address of either family, without a zone.
func (p *parser) address(field, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		p.fail(field, "must be an IPv4 or IPv6 address")
		return netip.Addr{}
	}
	return a
}

// isPeerAddress tells whether a device can be reached at an address. One of a
// link is not enough in IPv6: it says nothing without the link.
func isPeerAddress(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !(a.Is6() && a.IsLinkLocalUnicast())
}

// fqdn checks an identity of type fqdn: printable ASCII without a few
// specials. It is compared and never resolved, so it need not be a domain name.
func (p *parser) fqdn(field, s string, longest int) {
	if n := utf8.RuneCountInString(s); n < 1 || n > longest {
		p.fail(field, "must have 1 to %d characters", longest)
		return
	}
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`&<>[]\?`, r) {
			p.fail(field, `may hold printable ASCII characters only, but no spaces and & < > [ ] \ ?`)
			return
		}
	}
}

// ppk checks a post-quantum pre-shared key (RFC 8784, section 4): 32 octets or more,
// which are the characters or, after 0x, hexadecimal digits.
func (p *parser) ppk(field string, s Secret) {
	text := s.Reveal()
	if n := len(text); n < minPPKLen || n > maxPPKLen {
		p.fail(field, "must have %d to %d characters", minPPKLen, maxPPKLen)
		return
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < '!' || r > '~' }) {
		p.fail(field, "may hold printable ASCII characters without blanks only")
		return
	}
	if key, err := PPKOctets(s); err != nil || len(key) < minPPKLen {
		p.fail(field, "must be hexadecimal digits of at least %d octets after 0x", minPPKLen)
	}
}

// PPKOctets returns the key that a post-quantum pre-shared key stands for.
func PPKOctets(s Secret) ([]byte, error) {
	digits, found := strings.CutPrefix(s.Reveal(), "0x")
	if !found {
		return []byte(s.Reveal()), nil
	}
	key, err := hex.DecodeString(digits)
	if err != nil {
		return nil, errors.New("ppk: is not hexadecimal")
	}
	return key, nil
}

const pskSpecials = "~!@#$%^*()-_+={ },./:;"

// psk checks a pre-shared key: 8 to 128 characters of at least three of the
// classes upper case, lower case, digits and specials. The messages say
// nothing of the key itself.
func (p *parser) psk(field string, s Secret) {
	text := s.Reveal()
	if n := len(text); n < minPSKLen || n > maxPSKLen {
		p.fail(field, "must have %d to %d characters", minPSKLen, maxPSKLen)
		return
	}
	var upper, lower, digit, special int
	for _, r := range text {
		switch {
		case r >= 'A' && r <= 'Z':
			upper = 1
		case r >= 'a' && r <= 'z':
			lower = 1
		case r >= '0' && r <= '9':
			digit = 1
		case strings.ContainsRune(pskSpecials, r):
			special = 1
		default:
			p.fail(field, "may hold letters, digits and %s only", pskSpecials)
			return
		}
	}
	if upper+lower+digit+special < 3 {
		p.fail(field, "must have characters of at least 3 of upper case, lower case, digits and specials")
	}
}

// randomName returns a prefix followed by four random hexadecimal digits.
func randomName(prefix string, random io.Reader) (string, error) {
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("random name: %w", err)
	}
	return fmt.Sprintf("%s%04x", prefix, binary.BigEndian.Uint16(b[:])), nil
}

// TimeFormat is the form of times in the API: UTC with milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// FormatTime returns a time as the API writes it.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeFormat) }
