package dataplane

import (
	"slices"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// TestSAsOfAChildShare: what the SAs of one CHILD_SA have in common is in memory
// once, and a change of one of them is none of another.
func TestSAsOfAChildShare(t *testing.T) {
	g := newGateway(t)
	_, in := newPeer(t, g, nil)
	out := in
	out.SPI, out.Direction = 0x3002, ipsec.Out
	out.Src, out.Dst, out.SrcPort, out.DstPort = in.Dst, in.Src, in.DstPort, in.SrcPort
	narrow := out
	narrow.SPI, narrow.Local = 0x3003, []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(netB)}
	mustAdd(t, g, out, narrow)

	g.mu.Lock()
	a, b, c := g.sas[in.ID()], g.sas[out.ID()], g.sas[narrow.ID()]
	g.mu.Unlock()
	if a.path.Load() != b.path.Load() || &a.record.Local[0] != &b.record.Local[0] || &a.record.Remote[0] != &b.record.Remote[0] {
		t.Error("the two SAs of a CHILD_SA hold their path or selectors twice")
	}
	if !slices.Equal(c.record.Local, narrow.Local) || !slices.Equal(c.record.Remote, narrow.Remote) {
		t.Errorf("an SA with other selectors has %s and %s", c.record.Local, c.record.Remote)
	}

	before := *a.path.Load()
	to := ipsec.SAUpdate{Src: out.Src, Dst: out.Dst.Next(), Encap: true, SrcPort: out.SrcPort, DstPort: out.DstPort}
	if err := g.UpdateSA(out.ID(), to); err != nil {
		t.Fatal(err)
	}
	if now := a.path.Load(); now.Remote != before.Remote || a.id() != in.ID() {
		t.Errorf("the inbound SA moved to %s with the outbound one", now.Remote)
	}
	if id := b.id(); id != (ipsec.SAID{Dst: to.Dst, SPI: out.SPI}) {
		t.Errorf("the outbound SA is %s", id)
	}
}
