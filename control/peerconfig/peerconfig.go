// Package peerconfig writes the configuration of the device at the other end of
// a connection, in the language of several families of devices.
//
// A configuration has the algorithms, lifetimes, identities and networks of the
// connection from the device's point of view. What the control plane does not
// know or does not show stands there as a word in angle brackets for a person
// to replace: the pre-shared key always does. What a family has no word for is
// refused, never left out.
package peerconfig

import (
	"bytes"
	"embed"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/template"

	"github.com/vpngw/vpngw/control"
)

// PreSharedKey stands in a configuration where the key goes.
const PreSharedKey = "<PRE-SHARED KEY>"

// Device is a family of devices.
type Device struct {
	Vendor  string
	Type    string // series
	Model   string
	Version string // of the software, the lowest that understands the text
}

// family is a Device with the words it has.
type family struct {
	Device
	template string
	// routed says that the family has routes into a tunnel interface, and so
	// connections of style static only.
	routed bool
	// ipv6 says that the template knows IPv6, inside and outside of tunnels.
	ipv6 bool
	// lifetimes and dpdMost are ranges in seconds that values are cut to: IKEv2
	// negotiates neither.
	lifetimes [2]int
	dpdMost   int
	ike       words
	esp       words
}

// words are the names of algorithms. One that is absent, the family does not
// have.
type words struct {
	encryption     map[control.Encryption]string
	authentication map[control.Authentication]string
	prf            map[control.Authentication]string // beside an AEAD, where the PRF is named
	group          map[control.Group]string
}

//go:embed templates/*.tmpl
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"address": func(p netip.Prefix) string { return p.Addr().String() },
	"mask":    func(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() },
	"list":    func(prefixes []netip.Prefix) string { return join(prefixes, ", ") },
	"commas":  func(prefixes []netip.Prefix) string { return join(prefixes, ",") },
}).ParseFS(files, "templates/*.tmpl"))

func join(prefixes []netip.Prefix, separator string) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, separator)
}

// Devices returns the families that Render knows.
func Devices() []Device {
	devices := make([]Device, len(families))
	for i := range families {
		devices[i] = families[i].Device
	}
	return devices
}

// peer is a connection as the device sees it: local is the device.
type peer struct {
	Name      string // of this connection in the configuration
	Title     string // of the connection in the API
	Number    uint32 // of the tunnel interface
	Key       string
	Local     netip.Addr // invalid while it is not known
	Remote    netip.Addr
	LocalID   identity
	RemoteID  identity
	Static    bool
	Tunnel    netip.Prefix // of the device's end of the tunnel
	Gateway   netip.Prefix // of the gateway's end
	Probed    bool
	Selectors []selector // of each CHILD_SA
	Routes    []netip.Prefix

	IKE, ESP    suite
	IKELifetime int // seconds
	ESPLifetime int
	DPDInterval int
	DPDTimeout  int
}

type identity struct {
	Value string
	FQDN  bool // else an address
}

type selector struct {
	Name          string
	Local, Remote []netip.Prefix
}

// suite is a proposal in the family's words. Without an AEAD, PRF is empty.
type suite struct {
	Encryption, Authentication, PRF, Group string
	AEAD                                   bool
}

// Render writes the configuration of a device for a connection. Errors are
// refusals of type *control.Error.
func Render(d Device, v *control.ConnectionView) (string, error) {
	i := slices.IndexFunc(families, func(f family) bool {
		return strings.EqualFold(f.Vendor, d.Vendor) && strings.EqualFold(f.Type, d.Type) &&
			strings.EqualFold(f.Model, d.Model) && strings.EqualFold(f.Version, d.Version)
	})
	if i < 0 {
		return "", control.Invalid("vendor", "with type, model and version it must be one of the supported devices")
	}
	p, err := families[i].peer(v)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, families[i].template, p); err != nil {
		return "", fmt.Errorf("configuration for %s: %w", d.Vendor, err)
	}
	return text.String(), nil
}

const identityCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:"

// peer turns a connection around.
func (f *family) peer(v *control.ConnectionView) (*peer, error) {
	if v.IKE.Version != control.IKEv2 || v.IKE.AuthenticationMethod != control.AuthPreShare {
		return nil, f.lacks("connections other than of IKEv2 with a pre-shared key")
	}
	for _, id := range []string{v.LocalID, v.PeerID} {
		// Every family quotes other characters in another way, or not at all.
		if strings.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune(identityCharacters, r) }) {
			return nil, f.lacks("identities with other characters than letters, digits and . _ - :")
		}
	}
	if v.IKE.Additional.Given() || v.IPsec.Additional.Given() {
		return nil, f.lacks("connections with an additional key exchange")
	}
	if v.IKE.PPKID != "" {
		return nil, f.lacks("connections with a post-quantum pre-shared key")
	}
	if !f.ipv6 && (v.Gateway.IPVersion == control.IPv6 || v.Gateway.Address(v.Slot).Is6()) {
		return nil, f.lacks("connections with IPv6")
	}
	static := v.Style == control.StyleStatic
	if !static && (f.routed || v.Style != control.StylePolicy) {
		return nil, f.lacks("connections of style " + string(v.Style))
	}
	p := &peer{
		Name: "vpn-" + v.ID[:min(8, len(v.ID))], Title: v.Name, Number: interfaceNumber(v.ID), Key: PreSharedKey,
		Local: v.CustomerGateway.Address(), Remote: v.Gateway.Address(v.Slot),
		LocalID:  identity{v.PeerID, v.IKE.PeerIDType == control.IDTypeFQDN},
		RemoteID: identity{v.LocalID, v.IKE.LocalIDType == control.IDTypeFQDN},
		Static:   static, Tunnel: v.TunnelPeer, Gateway: v.TunnelLocal, Probed: v.EnableNQA, Routes: v.Gateway.LocalSubnets,
		IKELifetime: f.lifetime(v.IKE.LifetimeSeconds), ESPLifetime: f.lifetime(v.IPsec.LifetimeSeconds),
		DPDInterval: min(v.IKE.DPD.IntervalSeconds, f.dpdMost), DPDTimeout: v.IKE.DPD.TimeoutSeconds,
	}
	if static {
		p.Selectors = []selector{{Name: "net", Local: v.PeerSubnets, Remote: v.Gateway.LocalSubnets}}
	}
	for i, r := range v.PolicyRules {
		p.Selectors = append(p.Selectors, selector{
			Name: fmt.Sprintf("net%d", i+1), Local: r.Destinations, Remote: []netip.Prefix{r.Source},
		})
	}
	var err error
	if p.IKE, err = f.suite("ikepolicy", &f.ike, v.IKE.Encryption, v.IKE.Authentication, v.IKE.Group); err != nil {
		return nil, err
	}
	p.ESP, err = f.suite("ipsecpolicy", &f.esp, v.IPsec.Encryption, v.IPsec.Authentication, v.IPsec.PFS)
	return p, err
}

func (f *family) suite(policy string, w *words, e control.Encryption, a control.Authentication, g control.Group) (suite, error) {
	s := suite{Encryption: w.encryption[e], Group: w.group[g], AEAD: e.IsAEAD()}
	if s.Encryption == "" {
		return s, f.lacks(policy + ".encryption_algorithm " + string(e))
	}
	if s.Group == "" && g != control.PFSDisable {
		return s, f.lacks(policy + " group " + string(g))
	}
	switch {
	case !s.AEAD:
		if s.Authentication = w.authentication[a]; s.Authentication == "" {
			return s, f.lacks(policy + ".authentication_algorithm " + string(a))
		}
	case w.prf != nil:
		if s.PRF = w.prf[a]; s.PRF == "" {
			return s, f.lacks(policy + ".authentication_algorithm " + string(a))
		}
	}
	return s, nil
}

// lacks refuses what the family has no words for.
func (f *family) lacks(what string) error {
	return control.Invalid("vendor", "for %s %s there is no configuration of %s", f.Vendor, f.Type, what)
}

func (f *family) lifetime(seconds int) int {
	if f.lifetimes[1] == 0 {
		return seconds
	}
	return min(max(seconds, f.lifetimes[0]), f.lifetimes[1])
}

// interfaceNumber gives a connection a number from 100 on, the same each time.
func interfaceNumber(id string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return 100 + h.Sum32()%900
}
