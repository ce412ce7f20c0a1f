package dataplane

import (
	"errors"
	"slices"

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
	header   header
	flows    flowCache
	frames   []byte // what the TUN was read into
	scratch  []byte // room for one fragment
	copies   []byte // packets that do not stay where they are until they are sealed

	// The packets to be sealed, by frames, of which the first at are through.
	waiting [maxWaiting]waiting
	count   int
	at      int
	// segments are of the frames that wait and have several packets, and one more.
	segments [maxSegmented + 1]tun.Segments
	used     int

	// The batch: sealed packets of one SA that one system call will send. All
	// have size octets but the last.
	batch       []byte
	packets     int
	size        int
	ended       bool // the last one is shorter
	tos         uint8
	df          bool // outer packets must not be fragmented
	sa          *association
	first, last uint64 // its sequence numbers
}

// waiting is the packets of a frame that are still to be sealed.
type waiting struct {
	sa        *association
	packet    []byte        // the next one; nil: segments has it
	segments  *tun.Segments // those after it
	packets   int
	size, end int // octets of each packet, and of the last
	next, tos uint8
	df        bool
}

// length returns the octets of a packet, counted from the next one on.
func (w *waiting) length(i int) int {
	if i == w.packets-1 {
		return w.end
	}
	return w.size
}

// Limits of what is read before it is sealed.
const (
	maxWaiting, maxSegmented = udp.MaxSegments, 8
	// enough is the octets of frames that are worth a system call of their own.
	enough = 32 << 10
)

func newOutbound(e *Engine) *outbound {
	return &outbound{
		e: e, sender: e.options.Mux.NewSender(),
		frames:  make([]byte, enough+tun.HeaderLen+tun.MaxPacket+esp.MaxTrailer),
		scratch: make([]byte, tun.MaxPacket),
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

// drain takes frames from a queue until it is empty. It reads some before it seals
// them: how many packets there are is then known, and so which sequence numbers they
// take, which leaves those behind them to other queues. What comes while it seals may
// still join the batch.
func (o *outbound) drain(q tun.Queue) error {
	for {
		n, err := o.gather(q)
		if n == 0 {
			o.flush()
			if errors.Is(err, tun.ErrWouldBlock) {
				return nil
			}
			return err
		}
		o.sealAll()
		if len(o.batch) >= enough {
			o.send()
		}
	}
}

// gather reads frames until there is none, or enough for now. It returns their
// octets, and the error behind them.
func (o *outbound) gather(q tun.Queue) (octets int, err error) {
	for octets < enough && o.count < maxWaiting && o.used < maxSegmented {
		n, err := q.Read(o.frames[octets : octets+tun.HeaderLen+tun.MaxPacket])
		if err != nil {
			return octets, err
		}
		o.process(o.frames[octets : octets+n])
		octets += n
	}
	return octets, nil
}

// process takes one frame, which must not change until flush. All its packets are
// of one flow, so that what holds for the first holds for all.
func (o *outbound) process(frame []byte) {
	segments := &o.segments[o.used]
	if err := segments.Reset(frame); err != nil {
		o.counters.drop(reasonMalformed)
		return
	}
	packet := segments.Next()
	h := &o.header
	if !h.parse(packet) {
		o.counters.drop(reasonMalformed)
		return
	}
	sa, why := o.lookup(h)
	if sa == nil {
		for ; packet != nil; packet = segments.Next() {
			o.counters.drop(why)
		}
		return
	}
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
		o.tooLong(sa, packet, segments, limit)
		return
	}
	w := o.wait(sa, packet[:h.length])
	if left, octets := segments.Left(); left > 0 {
		w.packets += left
		w.end = octets - (left-1)*w.size
		w.segments = segments
		o.used++
	}
	o.police(w)
}

// wait has a packet wait for flush, where it must not change until then. There is
// room for it.
func (o *outbound) wait(sa *association, packet []byte) *waiting {
	w := &o.waiting[o.count]
	o.count++
	w.sa, w.packet, w.packets, w.size, w.end = sa, packet, 1, len(packet), len(packet)
	w.next, w.tos, w.df = protocolIPv4, o.header.tos, o.outerDF()
	if o.header.version == 6 {
		w.next = protocolIPv6
	}
	return w
}

// police takes away those packets that are above the limit of the SA's address.
func (o *outbound) police(w *waiting) {
	limit, now := w.sa.limitOf()
	if limit == nil {
		return
	}
	allowed := 0
	for allowed < w.packets && limit.out.Allow(w.length(allowed), now) {
		allowed++
	}
	for range w.packets - allowed {
		w.sa.drop(o.counters, reasonBandwidth)
	}
	if allowed < w.packets {
		w.packets, w.end = allowed, w.size
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
func (o *outbound) tooLong(sa *association, packet []byte, rest *tun.Segments, limit int) {
	if o.header.df {
		if o.d.answerRate.Allow() {
			if answer := tooBig(packet, &o.header, limit); answer != nil {
				// An answer that is lost is sent again for the next packet.
				_ = o.d.answer(answer)
			}
		}
		for ; packet != nil; packet = rest.Next() {
			sa.drop(o.counters, reasonTooBig)
		}
		return
	}
	// What comes next is written where these packets are.
	hold := func(packet []byte) {
		if o.count == maxWaiting {
			o.sealAll()
		}
		at := len(o.copies)
		o.copies = slices.Grow(o.copies, len(packet)+esp.MaxTrailer)
		o.copies = append(o.copies, packet...)
		o.police(o.wait(sa, o.copies[at:]))
	}
	for ; packet != nil; packet = rest.Next() {
		if !o.header.parse(packet) {
			sa.drop(o.counters, reasonMalformed)
			continue
		}
		packet = packet[:o.header.length]
		cut := sa.passesFragments(&o.header)
		ok := len(packet) <= limit || !cut && sa.out.SealedLen(len(packet)) <= udp.MaxOctets
		switch {
		case ok:
			hold(packet)
		case cut:
			ok = fragmentIPv4(packet, limit, o.scratch, hold)
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
	return (len(a.record.Local) == 0 || coversAny(a.record.Local, h.source(), h.protocol, 0, false)) &&
		(len(a.record.Remote) == 0 || coversAny(a.record.Remote, h.destination(), h.protocol, 0, false))
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

// flush seals and sends what waits.
func (o *outbound) flush() {
	o.sealAll()
	if o.sa != nil {
		o.send()
	}
}

// sealAll seals what waits, and sends it but for the last batch, which may grow.
func (o *outbound) sealAll() {
	for o.seal() {
	}
	clear(o.waiting[:o.count]) // an SA that has gone is not kept in memory
	o.count, o.at, o.used, o.copies = 0, 0, 0, o.copies[:0]
}

// seal adds packets that wait to the batch, or sends that and begins another one, and
// reports whether there were any. The outer header takes over their type of service,
// with its congestion mark (RFC 4301, section 5.1.2.1; RFC 6040, section 4.1).
func (o *outbound) seal() bool {
	for o.at < o.count {
		switch w := &o.waiting[o.at]; {
		case w.packets == 0:
			o.at++
		case o.sealUnder(w.sa, w):
			return true
		}
	}
	return false
}

// sealUnder adds packets that wait to the batch, of which one frame's come next. It
// reports whether they got sequence numbers; otherwise they are dropped, or wait for
// another SA.
func (o *outbound) sealUnder(sa *association, w *waiting) bool {
	sealer := sa.sealer()
	defer sa.workers.Put(sealer)
	n, octets := 0, 0
	if o.sa == sa && w.tos == o.tos && w.df == o.df {
		n, octets = o.plan()
	}
	if n > 0 && sealer.ReserveNext(o.last, n, octets) {
		o.last += uint64(n)
	} else {
		// Who waited for its turn while it has numbers of two SAs might wait for ever.
		if o.sa != nil {
			o.send()
		}
		n, octets = o.plan()
		first, err := sealer.Reserve(n, octets)
		if err != nil && n > 1 && !errors.Is(err, esp.ErrWiped) {
			n = 1 // a limit is near
			first, err = sealer.Reserve(1, w.length(0))
		}
		if err != nil {
			o.failed(w, err)
			return false
		}
		o.sa, o.first, o.last, o.tos, o.df = sa, first, first+uint64(n)-1, w.tos, w.df
		o.size = sa.out.SealedLen(w.length(0))
	}
	for range n {
		o.sealNext(sealer)
	}
	return true
}

// plan returns how many of the packets that wait can join the batch, or are the first
// of another one, and their octets.
func (o *outbound) plan() (n, octets int) {
	head := &o.waiting[o.at]
	size, total, packets, ended := o.size, len(o.batch), o.packets, o.ended
	if o.sa == nil {
		size = head.sa.out.SealedLen(head.length(0))
	}
	for at := o.at; at < o.count; at++ {
		w := &o.waiting[at]
		if w.sa != head.sa || w.tos != head.tos || w.df != head.df {
			break
		}
		for i := range w.packets {
			sealed := w.sa.out.SealedLen(w.length(i))
			if ended || sealed > size || packets+n == udp.MaxSegments || packets+n > 0 && total+sealed > udp.MaxOctets {
				return n, octets
			}
			n, octets, total, ended = n+1, octets+w.length(i), total+sealed, sealed < size
		}
	}
	return n, octets
}

// sealNext adds the next packet to the batch. It has a sequence number.
func (o *outbound) sealNext(sealer *esp.Sealer) {
	w := &o.waiting[o.at]
	for w.packets == 0 {
		o.at++
		w = &o.waiting[o.at]
	}
	packet := w.packet
	if packet == nil {
		packet = w.segments.Next()
	}
	w.packet = nil
	w.packets--
	batch, err := sealer.Seal(o.batch, packet, w.next)
	o.ended = len(batch)-len(o.batch) < o.size
	o.batch = batch
	o.packets++
	if err != nil {
		o.dropped(w.sa, reasonOf(err), 1)
	}
}

// reasonOf returns the reason that package esp gives for refusing a packet.
func reasonOf(err error) esp.Drop {
	var why esp.Drop
	errors.As(err, &why) // it has no other errors
	return why
}

// dropped counts packets that an SA has not sealed.
func (o *outbound) dropped(sa *association, why esp.Drop, packets int) {
	for range packets {
		sa.drop(o.counters, reason(why))
	}
}

// failed decides on the packets of a frame that got no sequence numbers. When the SA
// has ended since the look-up, they go on to its successor.
func (o *outbound) failed(w *waiting, err error) {
	sa := w.sa
	if errors.Is(err, esp.ErrWiped) || sa.expired.Load() {
		if successor := sa.request.current.Load(); successor != nil && successor != sa {
			w.sa = successor
			return
		}
	}
	why := reasonOf(err)
	o.dropped(sa, why, w.packets)
	w.packets = 0
	if why == esp.ErrExpired || why == esp.ErrSequenceExhausted {
		o.e.expire(sa)
	}
}

// send sends the batch, when those with the sequence numbers before have been.
func (o *outbound) send() {
	sa := o.sa
	sa.turn.wait(o.first)
	path := sa.path.Load()
	if !o.df {
		path = path.Fragmentable()
	}
	failed, err := o.sender.Send(path, o.batch, o.size, o.tos)
	o.done()
	if err != nil {
		if errors.Is(err, udp.ErrTooBig) {
			sa.staleMTU.Store(true)
		}
		if failed > 0 {
			o.counters.drops[reasonSend].Add(uint64(failed))
			sa.count(reasonSend, uint64(failed))
		}
	}
	if sa.record.Lifetime.SoftBytes != 0 || sa.record.Lifetime.SoftPackets != 0 {
		s := sa.out.State()
		o.e.checkSoft(sa, &s, 0)
	}
}

// done lets those send that come behind the batch, and makes room for another one.
func (o *outbound) done() {
	o.sa.turn.pass(o.last)
	o.batch, o.packets, o.ended, o.sa = o.batch[:0], 0, false, nil
}
