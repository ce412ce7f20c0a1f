package ipsectest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

func TestConformance(t *testing.T) {
	Run(t, func(*testing.T) ipsec.Backend { return NewBackend() }, Options{})
}

var local = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func TestFailNext(t *testing.T) {
	b := NewBackend()
	fault := errors.New("injected")
	b.FailNext(OpAddSA, fault)
	sa := testSAOf(ipsec.Out, 0x1234, local)
	wantErr(t, "first AddSA", b.AddSA(sa), fault)
	if len(b.SAs()) != 0 {
		t.Error("a call that failed installed its SA")
	}
	wantErr(t, "second AddSA", b.AddSA(sa), nil)
	var lines []string
	for _, c := range b.Calls() {
		lines = append(lines, c.String())
	}
	want := []string{
		"add-sa out esp 00001234 to 192.0.2.77 reqid 7: injected",
		"add-sa out esp 00001234 to 192.0.2.77 reqid 7",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("calls\n%q, want\n%q", lines, want)
	}
}

func TestReportNeverBlocks(t *testing.T) {
	b := NewBackend()
	const count = 500
	for i := range uint32(count) {
		b.Report(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: i})
	}
	b.Report(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: count - 1}) // waits already
	var got []uint32
	for len(got) < count {
		select {
		case e := <-b.Events():
			got = append(got, e.ReqID)
		default:
			// Any call hands on what waited for room.
			if _, err := b.List(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !slices.IsSorted(got) || got[count-1] != count-1 {
		t.Errorf("events in the order %v", got)
	}
	select {
	case e := <-b.Events():
		t.Errorf("one too many: %+v", e)
	default:
	}
}

func TestOutboundIsTheLastAdded(t *testing.T) {
	b := NewBackend()
	first, second := testSAOf(ipsec.Out, 0x3001, local), testSAOf(ipsec.Out, 0x3002, local)
	mustAddSA(t, b, first)
	mustAddSA(t, b, second)
	if sa, ok := b.Outbound(7); !ok || sa.SPI != second.SPI {
		t.Errorf("carries traffic: %s, %t", sa.ID(), ok)
	}
	if err := b.DeleteSA(second.ID()); err != nil {
		t.Fatal(err)
	}
	if sa, ok := b.Outbound(7); !ok || sa.SPI != first.SPI {
		t.Errorf("after the delete: %s, %t", sa.ID(), ok)
	}
	if _, ok := b.Outbound(8); ok {
		t.Error("a ReqID without SAs has one")
	}
}
