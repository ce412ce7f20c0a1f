//go:build kernelesp

package xfrm_test

import (
	"testing"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

func TestKernelConformance(t *testing.T) {
	t.Parallel()
	ipsectest.Run(t, func(t *testing.T) ipsec.Backend {
		return newHost(t).backend()
	}, ipsectest.Options{Pair: shape{}.pair})
}

// The same packets in every way that they can go between two kernels, and
// between a kernel and the data plane in user space.
func TestKernelTraffic(t *testing.T) {
	for name, s := range map[string]shape{
		"policy-based in UDP":           {encap: true},
		"policy-based over IPv6":        {six: true},
		"policy-based in UDP over IPv6": {six: true, encap: true},
		"route-based":                   {device: true},
		"route-based in UDP":            {device: true, encap: true},
		"to user space":                 {userspace: [2]bool{false, true}},
		"from user space":               {userspace: [2]bool{true, false}},
		"to user space in UDP":          {userspace: [2]bool{false, true}, encap: true},
		"from user space in UDP":        {userspace: [2]bool{true, false}, encap: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ipsectest.RunTraffic(t, s.pair)
		})
	}
}
