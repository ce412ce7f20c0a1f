package dataplane

import (
	"errors"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/esp"
)

// outbound is what a goroutine needs while it takes packets from a TUN queue
// to a socket. An idle queue holds none.
type outbound struct {
	e        *Engine
	d        *device
	counters *counters
	sender   *udp.Sender
	segments tun.Segments
	header   header
	flows    flowCache
	frame    []byte // what the TUN was read into
	scratch  []byte // room for one fragment

	// The batch: sealed packets of one SA that one system call will send. All
	// have size octets but the last.
	batch  []byte
	count  int
	size   int
	ended  bool // the last one is shorter
	tos    uint8
	df     bool // outer packets must not be fragmented
	sa     *association
	sealer *esp.Sealer

	limit *limit // of the frame at hand; nil is none
	now   int64  // for limit, by policer.Now
}

// sendAt is the octets of a batch that are worth a system call of their own.
// Below it, the next frame may join.
const sendAt = 32 << 10

func newOutbound(e *Engine) *outbound {
	return &outbound{
		e: e, sender: e.options.Mux.NewSender(),
		frame:   make([]byte, tun.HeaderLen+tun.MaxPacket+esp.MaxTrailer),
		scratch: make([]byte, tun.MaxPacket+esp.MaxTrailer),
		batch:   make([]byte, 0, udp.MaxOctets),
	}
}

// runQueue serves one TUN queue until the interface is closed.
func (e *Engine) runQueue(d *device, q tun.Queue) {
	c := e.newCounters()
	defer e.retire(c)
	for {
		err := q.Wait()
		if err == nil {
			o := e.senders.Get().(*outbound)
			o.d, o.counters = d, c
			err = o.drain(q)
			o.d, o.counters = nil, nil
			e.senders.Put(o)
		}
		switch {
		case err == nil:
		case errors.Is(err, tun.ErrClosed):
			return
		default:
			// Somebody else has removed the interface.
			d.broken.Store(true)
			e.log.Error("interface failed", "interface", d.Name, "error", err)
			return
		}
	}
}

// drain takes frames from a queue until it is empty.
func (o *outbound) drain(q tun.Queue) error {
	for {
		n, err := q.Read(o.frame[:tun.HeaderLen+tun.MaxPacket])
		if err != nil {
			o.flush()
			if errors.Is(err, tun.ErrWouldBlock) {
				return nil
			}
			return err
		}
		o.process(o.frame[:n])
		if len(o.batch) >= sendAt {
			o.flush()
		}
	}
}

// process takes one frame. All its packets are of one flow, so that what holds
// for the first holds for all.
func (o *outbound) process(frame []byte) {
	if err := o.segments.Reset(frame); err != nil {
		o.counters.drop(reasonMalformed)
		return
	}
	packet := o.segments.Next()
	h := &o.header
	if !h.parse(packet) {
		o.counters.drop(reasonMalformed)
		return
	}
	sa, why := o.lookup(h)
	if sa == nil {
		for ; packet != nil; packet = o.segments.Next() {
			o.counters.drop(why)
		}
		return
	}
	o.limit, o.now = sa.limitOf()
	limit := int(sa.maxInner.Load())
	if h.syn(packet) {
		clampMSS(packet, h, min(limit, int(o.d.mtu.Load())))
	}
	if h.version == 6 {
		// Every IPv6 link takes 1,280 octets (RFC 8200, section 5). Where the
		// path does not, the outer packet is cut (RFC 2473, section 7.1).
		limit = max(limit, minInnerMTU)
	}
	if h.length > limit {
		o.tooLong(sa, packet, limit)
		return
	}
	next := uint8(protocolIPv4)
	if h.version == 6 {
		next = protocolIPv6
	}
	packet = packet[:h.length]
	for ; packet != nil; packet = o.segments.Next() {
		o.seal(sa, packet, next, h.tos)
	}
}

// lookup finds the SA that carries a packet, or the reason to drop it.
func (o *outbound) lookup(h *header) (*association, reason) {
	p := o.flows.lookup(o.d.table, &h.flowKey)
	switch {
	case p == nil:
		return nil, reasonNoPolicy
	case p.Action != ipsec.Protect:
		return nil, reasonDiscard
	}
	sa := p.request.current.Load()
	if sa == nil {
		o.e.acquire(p.request)
		return nil, reasonNoSA
	}
	if path := sa.path.Load(); h.destination() == path.Remote.Addr() && carries(path, h) {
		return nil, reasonLoop
	}
	return sa, 0
}

// carries reports whether a packet to the peer is one of the tunnel itself. A
// route to the peer through the tunnel would wrap each packet again and again.
func carries(path *udp.Path, h *header) bool {
	if path.Encap {
		return h.protocol == protocolUDP && h.srcPort == path.Local.Port() && h.dstPort == path.Remote.Port()
	}
	return h.protocol == protocolESP
}

// tooLong treats the packets of a frame that are longer than the SA's path
// takes: fragments where that is allowed, else one answer that names the
// limit (RFC 4301, section 8.2). Where the SA passes no fragments, since they
// show no ports (RFC 4301, section 7), the outer packet is cut instead.
func (o *outbound) tooLong(sa *association, packet []byte, limit int) {
	if o.header.df {
		if o.d.answerRate.Allow() {
			if answer := tooBig(packet, &o.header, limit); answer != nil {
				// An answer that is lost is sent again for the next packet.
				_ = o.d.answer(answer)
			}
		}
		for ; packet != nil; packet = o.segments.Next() {
			sa.drop(o.counters, reasonTooBig)
		}
		return
	}
	for ; packet != nil; packet = o.segments.Next() {
		if !o.header.parse(packet) {
			sa.drop(o.counters, reasonMalformed)
			continue
		}
		packet = packet[:o.header.length]
		cut := sa.passesFragments(&o.header)
		ok := len(packet) <= limit || !cut && sa.out.SealedLen(len(packet)) <= udp.MaxOctets
		switch {
		case ok:
			o.seal(sa, packet, protocolIPv4, o.header.tos)
		case cut:
			ok = fragmentIPv4(packet, limit, o.scratch[:tun.MaxPacket], func(fragment []byte) {
				o.seal(sa, fragment, protocolIPv4, o.header.tos)
			})
		}
		if !ok {
			sa.drop(o.counters, reasonTooBig)
		}
	}
}

// passesFragments reports whether an outbound SA is for the later fragments of
// a packet, which show no ports, as for the packet. The policy has chosen the
// SA; one without selectors carries all.
func (a *association) passesFragments(h *header) bool {
	return (len(a.local) == 0 || coversAny(a.local, h.source(), h.protocol, 0, false)) &&
		(len(a.remote) == 0 || coversAny(a.remote, h.destination(), h.protocol, 0, false))
}

// seal adds a packet to the batch. The outer header takes over the type of
// service, with its congestion mark (RFC 4301, section 5.1.2.1; RFC 6040,
// section 4.1).
func (o *outbound) seal(sa *association, packet []byte, next, tos uint8) {
	if o.limit != nil && !o.limit.out.Allow(len(packet), o.now) {
		sa.drop(o.counters, reasonBandwidth)
		return
	}
	n := sa.out.SealedLen(len(packet))
	df := o.outerDF()
	if o.count > 0 && (sa != o.sa || tos != o.tos || df != o.df || o.ended || n > o.size ||
		o.count == udp.MaxSegments || len(o.batch)+n > udp.MaxOctets) {
		o.flush()
	}
	if o.count == 0 {
		o.startBatch(sa, n, tos, df)
	}
	batch, err := o.sealer.Seal(o.batch, packet, next)
	if errors.Is(err, esp.ErrWiped) {
		// A rekey has ended between the look-up and here.
		if successor := sa.request.current.Load(); successor != nil && successor != sa {
			if o.count == 0 {
				o.endBatch()
			}
			o.seal(successor, packet, next, tos)
			return
		}
	}
	if err != nil {
		o.failed(sa, err)
		return
	}
	o.batch = batch
	o.count++
	o.ended = n < o.size
}

// outerDF tells whether the outer packet of the one at hand must not be
// fragmented.
func (o *outbound) outerDF() bool {
	switch o.e.options.OuterDF {
	case SetDF:
		return true
	case ClearDF:
		return false
	case CopyDF:
	}
	return o.header.df
}

// failed counts a packet that could not be sealed.
func (o *outbound) failed(sa *association, err error) {
	var why esp.Drop
	if errors.As(err, &why) {
		sa.drop(o.counters, reason(why))
	}
	if why == esp.ErrExpired || why == esp.ErrSequenceExhausted {
		o.e.expire(sa)
	}
	if o.count == 0 {
		o.endBatch()
	}
}

// flush sends the batch.
func (o *outbound) flush() {
	if o.count == 0 {
		return
	}
	sa := o.sa
	path := sa.path.Load()
	if !o.df {
		path = path.Fragmentable()
	}
	failed, err := o.sender.Send(path, o.batch, o.size, o.tos)
	if err != nil {
		if errors.Is(err, udp.ErrTooBig) {
			sa.staleMTU.Store(true)
		}
		if failed > 0 {
			o.counters.drops[reasonSend].Add(uint64(failed))
			sa.drops[reasonSend].Add(uint64(failed))
		}
	}
	if sa.life.SoftBytes != 0 || sa.life.SoftPackets != 0 {
		s := sa.out.State()
		o.e.checkSoft(sa, &s, 0)
	}
	o.endBatch()
}

// startBatch begins a batch of packets of one SA, whose first has size octets.
// From here to the end of the sending the SA is this goroutine's: packets
// leave in the order of their sequence numbers. Else the ones of two queues
// would be late for the replay window of a peer, which may be as small as 32
// packets (RFC 4303, section 3.4.3).
func (o *outbound) startBatch(sa *association, size int, tos uint8, df bool) {
	sa.sending.Lock()
	o.sa, o.size, o.tos, o.df, o.ended = sa, size, tos, df, false
	o.sealer = sa.sealers.Get().(*esp.Sealer)
}

// endBatch makes room for another batch.
func (o *outbound) endBatch() {
	o.sa.sealers.Put(o.sealer)
	o.sa.sending.Unlock()
	o.batch, o.count, o.sa, o.sealer = o.batch[:0], 0, nil, nil
}
