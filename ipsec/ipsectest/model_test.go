package ipsectest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// model is a data plane as short as can be, so that the suite itself is tested:
// the fake Backend, and packets handed from one to the other.
type model struct {
	*Backend
	peer  *model
	inner chan []byte

	mu       sync.Mutex
	ends     map[ipsec.SAID]*modelSA
	acquired map[uint32]bool
	fault    fault
}

// fault is a defect that the suite has to find.
type fault string

const (
	faultNone             fault = ""
	faultKeepsOldOutbound fault = "Rekey"
	faultSkipsSelectors   fault = "InboundSelectors"
	faultIgnoresDiscard   fault = "Discard"
	faultCountsFromOne    fault = "UpdateKeepsSequence"
	faultNeverAcquires    fault = "Acquire"
	faultOpensDeleted     fault = "DeletedSA"
	faultNoReplayCheck    fault = "Replay"
	faultNoSoftLimit      fault = "PacketLimits"
	faultNoHardLimit      fault = "ByteLimit"
	faultNoClock          fault = "TimeLimits"
)

type modelSA struct {
	out      *esp.Outbound
	in       *esp.Inbound
	limits   ipsec.Lifetime
	lastUsed time.Time
	soft     bool
}

func newModelPair(f fault) func(t *testing.T) (a, b End) {
	return func(*testing.T) (a, b End) {
		first, second := newModel(f), newModel(f)
		first.peer, second.peer = second, first
		return first.end(1), second.end(2)
	}
}

func newModel(f fault) *model {
	return &model{
		Backend: NewBackend(), inner: make(chan []byte, 256),
		ends: map[ipsec.SAID]*modelSA{}, acquired: map[uint32]bool{}, fault: f,
	}
}

func (m *model) end(number byte) End {
	return End{
		Backend: m, Outer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, number}), 4500), Send: m.send,
		Receive: func(wait time.Duration) []byte {
			select {
			case packet := <-m.inner:
				return packet
			case <-time.After(wait):
				return nil
			}
		},
	}
}

func (m *model) AddSA(sa ipsec.SA) error {
	if err := m.Backend.AddSA(sa); err != nil {
		return err
	}
	end := &modelSA{limits: sa.Lifetime}
	if m.fault == faultNoHardLimit {
		sa.Lifetime.HardBytes = 0
	}
	var err error
	if sa.Direction == ipsec.Out {
		end.out, err = esp.NewOutbound(&sa)
	} else {
		end.in, err = esp.NewInbound(&sa)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends[sa.ID()] = end
	for kind, after := range map[ipsec.EventKind]time.Duration{
		ipsec.EventSoftExpire: sa.Lifetime.Soft, ipsec.EventHardExpire: sa.Lifetime.Hard,
	} {
		if after != 0 && m.fault != faultNoClock {
			time.AfterFunc(after, func() {
				if kind == ipsec.EventHardExpire {
					end.out.Wipe()
				}
				m.Report(ipsec.Event{Kind: kind, SA: sa.ID()})
			})
		}
	}
	return err
}

func (m *model) DeleteSA(id ipsec.SAID) error {
	if err := m.Backend.DeleteSA(id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault != faultOpensDeleted {
		delete(m.ends, id)
	}
	return nil
}

func (m *model) UpdateSA(id ipsec.SAID, to ipsec.SAUpdate) error {
	if err := m.Backend.UpdateSA(id, to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.ends[id]
	if m.fault == faultCountsFromOne && end.out != nil {
		for _, sa := range m.SAs() {
			if sa.SPI == id.SPI {
				end.out, _ = esp.NewOutbound(&sa)
			}
		}
	}
	delete(m.ends, id)
	m.ends[ipsec.SAID{Dst: to.Dst, SPI: id.SPI}] = end
	return nil
}

func (m *model) QuerySA(id ipsec.SAID) (ipsec.SAState, error) {
	if _, err := m.Backend.QuerySA(id); err != nil {
		return ipsec.SAState{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.ends[id]
	var s ipsec.SAState
	if end.out != nil {
		s = end.out.State()
	} else {
		s = end.in.State()
	}
	s.LastUsed = end.lastUsed
	return s, nil
}

func (m *model) send(packet []byte) {
	d, _ := parseDatagram(packet)
	var action ipsec.Policy
	for _, p := range m.Policies() { // by priority
		if p.Direction == ipsec.Out && p.Local.Matches(d.src.Addr(), protocolUDP, d.src.Port()) &&
			p.Remote.Matches(d.dst.Addr(), protocolUDP, d.dst.Port()) && (m.fault != faultIgnoresDiscard || p.Action != ipsec.Discard) {
			action = p
			break
		}
	}
	if action.Action != ipsec.Protect {
		return
	}
	sa, ok := m.Outbound(action.ReqID)
	if m.fault == faultKeepsOldOutbound {
		i := slices.IndexFunc(m.SAs(), func(sa ipsec.SA) bool { return sa.Direction == ipsec.Out && sa.ReqID == action.ReqID })
		if ok = i >= 0; ok {
			sa = m.SAs()[i]
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok {
		if !m.acquired[action.ReqID] && m.fault != faultNeverAcquires {
			m.Report(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: action.ReqID})
		}
		m.acquired[action.ReqID] = true
		return
	}
	m.acquired[action.ReqID] = false
	end := m.ends[sa.ID()]
	nextHeader := uint8(4)
	if d.src.Addr().Is6() {
		nextHeader = 41
	}
	sealed, err := end.out.NewSealer().Seal(nil, append(make([]byte, 0, len(packet)+esp.MaxTrailer), packet...), nextHeader)
	if errors.Is(err, esp.ErrExpired) {
		m.Report(ipsec.Event{Kind: ipsec.EventHardExpire, SA: sa.ID()})
	}
	if err != nil {
		return
	}
	end.lastUsed = time.Now()
	if soft := end.limits.SoftPackets; soft != 0 && end.out.State().Packets >= soft && !end.soft && m.fault != faultNoSoftLimit {
		end.soft = true
		m.Report(ipsec.Event{Kind: ipsec.EventSoftExpire, SA: sa.ID()})
	}
	m.peer.receive(sa.Dst, sealed)
}

func (m *model) receive(dst netip.Addr, packet []byte) {
	id := ipsec.SAID{Dst: dst, SPI: ipsec.SPI(binary.BigEndian.Uint32(packet))}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.ends[id]
	if end == nil {
		return
	}
	if m.fault == faultNoReplayCheck {
		sa := m.SAs()[0]
		end.in, _ = esp.NewInbound(&sa)
	}
	inner, _, err := end.in.NewOpener().Open(packet)
	if errors.Is(err, esp.ErrExpired) {
		m.Report(ipsec.Event{Kind: ipsec.EventHardExpire, SA: id})
	}
	if err != nil {
		return
	}
	end.lastUsed = time.Now()
	d, _ := parseDatagram(inner)
	for _, sa := range m.SAs() {
		within := func(list []ipsec.TrafficSelector, a netip.AddrPort) bool {
			return slices.ContainsFunc(list, func(s ipsec.TrafficSelector) bool { return s.Matches(a.Addr(), protocolUDP, a.Port()) })
		}
		if sa.ID() == id && !(within(sa.Local, d.dst) && within(sa.Remote, d.src)) && m.fault != faultSkipsSelectors {
			return
		}
	}
	m.inner <- bytes.Clone(inner)
}

func TestConformanceOfModel(t *testing.T) {
	Run(t, func(*testing.T) ipsec.Backend { return newModel(faultNone) }, Options{Pair: newModelPair(faultNone)})
}

// faultVariable has the fault of a child process of TestSuiteFinds.
const faultVariable = "IPSECTEST_FAULT"

// TestSuiteFinds runs the suite on defective models, each in a process of its
// own, and wants the test of the defect to fail.
func TestSuiteFinds(t *testing.T) {
	if f := os.Getenv(faultVariable); f != "" {
		arrival = 300 * time.Millisecond
		if fault(f) == faultNoClock {
			arrival = 4 * time.Second // longer than the lifetimes that are set
		}
		RunTraffic(t, newModelPair(fault(f)))
		return
	}
	for _, f := range []fault{
		faultKeepsOldOutbound, faultSkipsSelectors, faultIgnoresDiscard, faultCountsFromOne, faultNeverAcquires,
		faultOpensDeleted, faultNoReplayCheck, faultNoSoftLimit, faultNoHardLimit, faultNoClock,
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSuiteFinds$/^"+string(f)+"$", "-test.v")
			child.Env = append(os.Environ(), faultVariable+"="+string(f))
			output, err := child.CombinedOutput()
			if err == nil || !strings.Contains(string(output), "--- FAIL: TestSuiteFinds/"+string(f)+" ") {
				t.Errorf("not found: %v\n%s", err, output)
			}
		})
	}
}
