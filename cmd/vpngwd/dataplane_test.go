package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

func TestPickPlane(t *testing.T) {
	esp := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)}}
	unknown := ipsec.Proposal{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{ipsec.Encryption(99, 0)}}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	unlimited := xfrm.Abilities{Devices: "xfrm", IPv6: true, Bandwidth: errors.New("no act_police")}
	kernel, vti, none := xfrm.Abilities{Devices: "xfrm", IPv6: true}, xfrm.Abilities{Devices: "vti", IPv6: true}, xfrm.Abilities{Devices: "none"}
	for _, c := range []struct {
		name      string
		abilities *xfrm.Abilities
		esp       ipsec.Proposal
		local     netip.Addr
		limited   bool
		plane     ipsec.Plane
		why       string // a part of it
		only      string // a part of what dataplane.backend kernel says
	}{
		{"all there", &kernel, esp, v4, false, ipsec.PlaneKernel, "all that the connection needs", "all that the connection needs"},
		{"IPv6", &kernel, esp, v6, false, ipsec.PlaneKernel, "all that the connection needs", "all that the connection needs"},
		{"algorithm", &kernel, unknown, v4, false, ipsec.PlaneUserspace, "encryption algorithm 99", "encryption algorithm 99"},
		{"bandwidth", &kernel, esp, v4, true, ipsec.PlaneKernel, "all that the connection needs", "all that the connection needs"},
		{"no bandwidth", &unlimited, esp, v4, true, ipsec.PlaneUserspace, "the bandwidth of the EIP: no act_police", "does not limit the bandwidth of the EIP: no act_police"},
		{"no bandwidth wanted", &unlimited, esp, v4, false, ipsec.PlaneKernel, "all that the connection needs", "all that the connection needs"},
		{"VTI", &vti, esp, v4, false, ipsec.PlaneKernel, "all that the connection needs", "all that the connection needs"},
		{"VTI and IPv6", &vti, esp, v6, false, ipsec.PlaneUserspace, "VTI is for IPv4", "VTI is for IPv4"},
		{"no device", &none, esp, v4, false, ipsec.PlaneUserspace, "neither XFRM interfaces nor VTI", "neither XFRM interfaces nor VTI"},
	} {
		plane, why, err := pickPlane(c.abilities, false, c.esp, c.local, c.limited)
		if err != nil || plane != c.plane || !strings.Contains(why, c.why) {
			t.Errorf("%s, auto: %s, %q, %v", c.name, plane, why, err)
		}
		plane, why, err = pickPlane(c.abilities, true, c.esp, c.local, c.limited)
		if err != nil {
			why = err.Error()
		}
		refused := c.plane == ipsec.PlaneUserspace && !c.limited
		if (err != nil) != refused || err == nil && plane != ipsec.PlaneKernel || !strings.Contains(why, c.only) {
			t.Errorf("%s, kernel: %s, %q, %v", c.name, plane, why, err)
		}
	}
}

// SAs of the kernel would outlive the lease of a fleet's node.
func TestNoKernelInAFleet(t *testing.T) {
	text := strings.Replace(wholeConfig, "store: {backend: bbolt}", "store: {backend: etcd, endpoints: ['http://127.0.0.1:2379'], plaintext: true}", 1)
	text = strings.Replace(text, "dataplane: {backend: auto}", "dataplane: {backend: kernel}", 1)
	if _, err := loadConfig(writeConfig(t, text), noEnv); err == nil || !strings.Contains(err.Error(), "dataplane.backend: kernel does not go with store.backend etcd") {
		t.Errorf("got %v", err)
	}
}
