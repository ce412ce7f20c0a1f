package dataplane

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// inbound takes the ESP packets of one socket to the TUN interfaces. It
// implements udp.Receiver.
type inbound struct {
	e        *Engine
	counters *counters
	header   header

	// The SA of the last packet, kept until another is met or the packets at
	// hand are through.
	sa     *association
	id     ipsec.SAID
	opener *esp.Opener
	dev    *device
	joiner *tun.Coalescer
	limit  *limit // nil is none
	now    int64  // for limit, by policer.Now

	// The flow that was last found to be inside the selectors of its SA.
	passed   flowKey
	passedSA *association

	// The interfaces that have got packets since the last flush, and for each one of
	// the joiners, which stay: they are too large to have one for each interface.
	touched []touched
	joiners []*tun.Coalescer
}

type touched struct {
	dev    *device
	writer tun.Writer
}

// maxTouched is how many interfaces may have packets that are not written yet.
const maxTouched = 16

func (e *Engine) newInbound() udp.Receiver {
	return &inbound{e: e, counters: e.newCounters()}
}

// ReceiveESP implements udp.Receiver.
func (in *inbound) ReceiveESP(from *udp.Origin, packet []byte) {
	spi := ipsec.SPI(binary.BigEndian.Uint32(packet))
	if in.sa == nil || in.id.SPI != spi || in.id.Dst != from.Local.Addr() {
		if id := (ipsec.SAID{Dst: from.Local.Addr(), SPI: spi}); !in.enter(id) && !in.wait(id, from, packet) {
			return
		}
	}
	sa := in.sa
	if sa.expired.Load() {
		sa.drop(in.counters, reason(esp.ErrExpired))
		return
	}
	inner, next, err := in.opener.Open(packet)
	// A dummy packet, too, tells where the peer is.
	if from.Encap && in.opener.Newest() && from.Remote != sa.path.Load().Remote {
		in.moved(sa, from)
	}
	if err != nil {
		in.failed(sa, err)
		return
	}
	in.deliver(sa, inner, next, from.TOS)
}

// enter makes an SA the one at hand.
func (in *inbound) enter(id ipsec.SAID) bool {
	in.leave()
	sa := in.e.inbound.get(id)
	if sa == nil {
		return false
	}
	in.sa, in.id = sa, id
	in.limit, in.now = sa.limitOf()
	in.opener = sa.opener()
	in.dev = in.e.device(sa.record.IfID)
	in.joiner = nil
	if in.dev == nil {
		return true
	}
	in.joiner = in.touch(in.dev)
	return true
}

// touch returns the joiner of an interface until the next flush.
func (in *inbound) touch(d *device) *tun.Coalescer {
	at := slices.IndexFunc(in.touched, func(t touched) bool { return t.dev == d })
	if at >= 0 {
		return in.joiners[at]
	}
	if len(in.touched) == maxTouched {
		in.write()
	}
	at = len(in.touched)
	if at == len(in.joiners) {
		in.joiners = append(in.joiners, tun.NewCoalescer(nil))
	}
	t := touched{d, d.writers.Get().(tun.Writer)}
	in.touched = append(in.touched, t)
	in.joiners[at].Reset(t.writer)
	return in.joiners[at]
}

// wait keeps a packet whose SA is still negotiated, or counts it as nobody's. It
// reports whether the SA is there after all and was entered.
func (in *inbound) wait(id ipsec.SAID, from *udp.Origin, packet []byte) (entered bool) {
	if l := in.e.larvals.get(id); l != nil && l.hold(&in.e.held, from, packet) {
		return false
	}
	entered = in.enter(id) // it may have got its keys just now
	if stray := in.e.options.Stray; !entered && (stray == nil || !stray(id, from.Local, from.Remote)) {
		in.counters.drop(reasonUnknownSPI)
	}
	return entered
}

// leave gives back what enter took.
func (in *inbound) leave() {
	if in.sa != nil {
		in.sa.workers.Put(in.opener)
	}
	in.sa, in.opener, in.dev, in.joiner, in.limit = nil, nil, nil, nil, nil
}

// failed counts a packet that was not opened. Those of package esp are counted
// there for the SA.
func (in *inbound) failed(sa *association, err error) {
	var why esp.Drop
	if errors.As(err, &why) {
		in.counters.drop(reason(why))
	}
	if why == esp.ErrExpired {
		in.e.expire(sa)
	}
}

// movedPause is the least time between two reports of a peer's move.
const movedPause = time.Second

// moved reports that a peer's packets come from another address or port. Only
// the key exchange decides whether to follow (RFC 7296, section 2.23).
func (in *inbound) moved(sa *association, from *udp.Origin) {
	if !sa.path.Load().Encap {
		return
	}
	now := time.Now().UnixNano()
	last := sa.movedAt.Load()
	if since(last, now) < movedPause || !sa.movedAt.CompareAndSwap(last, now) {
		return
	}
	in.e.events.Emit(ipsec.Event{
		Kind: ipsec.EventMoved, ReqID: sa.request.reqID, SA: sa.id(), From: from.Remote,
	})
}

// deliver hands an opened packet to the interface of its tunnel.
func (in *inbound) deliver(sa *association, packet []byte, next, outerTOS uint8) {
	h := &in.header
	if next != protocolIPv4 && next != protocolIPv6 {
		sa.drop(in.counters, reasonNextHeader)
		return
	}
	if !h.parse(packet) || (next == protocolIPv4) != (h.version == 4) {
		sa.drop(in.counters, reasonMalformed)
		return
	}
	if sa != in.passedSA || h.flowKey != in.passed {
		// What the peer sends from is remote to us, and local what it sends to.
		if !coversAny(sa.record.Remote, h.source(), h.protocol, h.srcPort, h.ports) ||
			!coversAny(sa.record.Local, h.destination(), h.protocol, h.dstPort, h.ports) {
			sa.drop(in.counters, reasonSelectors)
			return
		}
		in.passedSA, in.passed = sa, h.flowKey
	}
	if in.dev == nil {
		sa.drop(in.counters, reasonNoInterface)
		return
	}
	packet = packet[:h.length] // without traffic flow padding (RFC 4303, section 2.7)
	if !decapsulateECN(packet, h.tos, outerTOS) {
		sa.drop(in.counters, reasonECN)
		return
	}
	if in.limit != nil && !in.limit.in.Allow(len(packet), in.now) {
		sa.drop(in.counters, reasonBandwidth)
		return
	}
	if h.syn(packet) {
		if back := sa.request.current.Load(); back != nil {
			clampMSS(packet, h, int(min(back.maxInner.Load(), in.dev.mtu.Load())))
		}
	}
	if lost, err := in.joiner.Add(packet); err != nil {
		in.counters.drops[reasonWrite].Add(uint64(lost))
	}
}

// FlushESP implements udp.Receiver.
func (in *inbound) FlushESP() {
	in.leave()
	in.write()
	in.passedSA = nil // one that has gone is not kept in memory
}

// write gives the interfaces what the joiners hold.
func (in *inbound) write() {
	for i, t := range in.touched {
		if lost, err := in.joiners[i].Flush(); err != nil {
			in.counters.drops[reasonWrite].Add(uint64(lost))
		}
		in.joiners[i].Reset(nil) // an interface that has gone is not kept in memory
		t.dev.writers.Put(t.writer)
		in.touched[i] = touched{}
	}
	in.touched = in.touched[:0]
}

// Close implements udp.Receiver.
func (in *inbound) Close() { in.e.retire(in.counters) }
