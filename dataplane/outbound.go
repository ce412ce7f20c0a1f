package dataplane

import (
	"errors"
	"runtime"
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
	segments tun.Segments
	header   header
	flows    flowCache
	frames   []byte // what the TUN was read into
	scratch  []byte // room for one fragment
	copies   []byte // packets that do not stay where they are until they are sealed

	// The packets to be sealed, by frames, of which the first at are through.
	waiting [maxWaiting]waiting
	count   int
	at      int

	// The batch: sealed packets of one SA that one system call will send. All
	// have size octets but the last.
	batch       []byte
	size        int
	tos         uint8
	df          bool // outer packets must not be fragmented
	sa          *association
	first, last uint64 // its sequence numbers
}

// waiting is the packets of a frame that are still to be sealed.
type waiting struct {
	sa        *association
	packet    []byte       // the next one; nil: segments has it
	segments  tun.Segments // those after it
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
	maxWaiting = udp.MaxSegments
	// enough is the octets of frames that are worth a system call of their own.
	enough = 32 << 10
	// quantum is the octets of frames that one queue may send before others have their
	// turn: some hundred microseconds.
	quantum = 256 << 10
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
// take, which leaves those behind them to other queues.
func (o *outbound) drain(q tun.Queue) error {
	taken := 0
	for {
		var err error
		used := 0
		for used < enough && o.count < maxWaiting && err == nil {
			var n int
			if n, err = q.Read(o.frames[used : used+tun.HeaderLen+tun.MaxPacket]); err == nil {
				o.process(o.frames[used : used+n])
				used += n
			}
		}
		o.flush()
		switch {
		case err == nil:
		case errors.Is(err, tun.ErrWouldBlock):
			return nil
		default:
			return err
		}
		if taken += used; taken >= quantum {
			taken = 0
			runtime.Gosched()
		}
	}
}

// process takes one frame, which must not change until flush. All its packets are
// of one flow, so that what holds for the first holds for all.
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
	w := o.wait(sa, packet[:h.length])
	if left, octets := o.segments.Left(); left > 0 {
		w.packets += left
		w.end = octets - (left-1)*w.size
		w.segments = o.segments
	}
	o.police(w)
}

// wait has a packet wait for flush, where it must not change until then.
func (o *outbound) wait(sa *association, packet []byte) *waiting {
	if o.count == maxWaiting {
		o.flush()
	}
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
	// What comes next is written where these packets are.
	hold := func(packet []byte) {
		if o.count == maxWaiting {
			o.flush()
		}
		at := len(o.copies)
		o.copies = slices.Grow(o.copies, len(packet)+esp.MaxTrailer)
		o.copies = append(o.copies, packet...)
		o.police(o.wait(sa, o.copies[at:]))
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
	for o.seal() {
		o.send()
	}
	clear(o.waiting[:o.count]) // an SA that has gone is not kept in memory
	o.count, o.at, o.copies = 0, 0, o.copies[:0]
}

// seal makes a batch of packets that wait, and reports whether there is one. The
// outer header takes over their type of service, with its congestion mark
// (RFC 4301, section 5.1.2.1; RFC 6040, section 4.1).
//
// Each batch that it makes has to be sent, or given up by done.
func (o *outbound) seal() bool {
	for o.at < o.count {
		w := &o.waiting[o.at]
		if w.packets == 0 {
			o.at++
			continue
		}
		sa := w.sa
		sealer := sa.workers.Get().(*esp.Sealer)
		n, octets := o.plan()
		first, err := sealer.Reserve(n, octets)
		if err != nil && n > 1 && !errors.Is(err, esp.ErrWiped) {
			n = 1 // a limit is near
			first, err = sealer.Reserve(1, w.length(0))
		}
		if err != nil {
			sa.workers.Put(sealer)
			o.failed(w, err)
			continue
		}
		o.sa, o.first, o.last, o.tos, o.df = sa, first, first+uint64(n)-1, w.tos, w.df
		for range n {
			o.sealNext(sealer)
		}
		sa.workers.Put(sealer)
		return true
	}
	return false
}

// plan returns how many packets the next batch takes, and their octets, and sets
// its size.
func (o *outbound) plan() (n, octets int) {
	head := &o.waiting[o.at]
	o.size = head.sa.out.SealedLen(head.length(0))
	total, ended := 0, false
	for at := o.at; at < o.count; at++ {
		w := &o.waiting[at]
		if w.sa != head.sa || w.tos != head.tos || w.df != head.df {
			break
		}
		for i := range w.packets {
			sealed := w.sa.out.SealedLen(w.length(i))
			if ended || sealed > o.size || n == udp.MaxSegments || n > 0 && total+sealed > udp.MaxOctets {
				return n, octets
			}
			n, octets, total, ended = n+1, octets+w.length(i), total+sealed, sealed < o.size
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
	o.batch = batch
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

// done lets those send that come behind the batch, and makes room for another.
func (o *outbound) done() {
	o.sa.turn.pass(o.last)
	o.batch, o.sa = o.batch[:0], nil
}
