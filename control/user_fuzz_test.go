package control

import (
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vpngw/vpngw/fuzztest"
)

func FuzzParseUser(f *testing.F) {
	target := fuzztest.New(f)
	target.Add("user001", "Qwerasdf", "用户1", "disable")
	target.Add("l3sw_x", "P@ssw0rd", "a b", "172.16.0.5")
	target.Add("\xff\xfe\xfd\xfc", "\x00\x01\x02\x03\x04\x05\x06\x07", "", "::1")
	target.Fuzz(func(t *testing.T, name, password, description, address string) {
		secret := NewSecret(password)
		u, err := parseUser(&UserCreate{Name: &name, Password: &secret, Description: &description, StaticIP: &address})
		if err != nil {
			return
		}
		n := utf8.RuneCountInString(name)
		if u.Name != name || n < minUserNameLen || n > maxUserNameLen || strings.ContainsAny(name, " /\x00") || !utf8.ValidString(description) {
			t.Errorf("accepted %+v", u)
		}
		if len(password) < minPasswordLen || len(password) > maxPasswordLen || password == name {
			t.Errorf("accepted a password of %d octets", len(password))
		}
		if u.StaticIP.IsValid() != (address != AnyAddress) || u.StaticIP.IsValid() && !u.StaticIP.Is4() {
			t.Errorf("accepted the address %q as %v", address, u.StaticIP)
		}
	})
}

func FuzzParseDestinations(f *testing.F) {
	target := fuzztest.New(f)
	target.Add("172.16.0.0/24,172.16.1.9/24")
	target.Add("0.0.0.0/0")
	target.Add("10.0.0.0/8,10.1.0.0/8,::/0")
	target.Fuzz(func(t *testing.T, list string) {
		texts := strings.Split(list, ",")
		got, err := parseDestinations(texts)
		if err != nil {
			return
		}
		if len(got) != len(texts) || len(got) > maxDestinationCIDRs {
			t.Fatalf("%d networks became %d", len(texts), len(got))
		}
		seen := map[netip.Prefix]bool{}
		for _, n := range got {
			own := n.Contains(netip.MustParseAddr("127.0.0.1")) || n.Contains(netip.IPv6Loopback())
			if n != n.Masked() || n.Addr().Is4In6() || seen[n] || n.Bits() > 0 && own {
				t.Errorf("accepted %s of %q", n, list)
			}
			seen[n] = true
		}
	})
}
