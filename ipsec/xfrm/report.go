package xfrm

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// reportBuffer is the octets of reports that wait: many SAs may expire at once.
const reportBuffer = 4 << 20

// movedPause is the least time between two reports of a peer's move: the kernel
// tells of each packet.
const movedPause = time.Second

// Lengths of the kernel's reports, in octets.
const (
	acquireLen = nl.SizeofXfrmId + nl.SizeofXfrmAddress + nl.SizeofXfrmSelector + nl.SizeofXfrmUserpolicyInfo + 16
	mappingLen = nl.SizeofXfrmUsersaId + 4 + 2*nl.SizeofXfrmAddress + 4
)

// watch hears the kernel's reports until the context ends.
func (b *Backend) watch(ctx context.Context, reports *nl.NetlinkSocket) {
	moved := map[ipsec.SAID]time.Time{}
	for {
		messages, from, err := reports.Receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS):
			b.log.Warn("reports of the kernel were lost; SAs are looked through")
			b.resync()
			continue
		case err != nil:
			b.log.Warn("reports of the kernel", "error", err)
			time.Sleep(100 * time.Millisecond) // it may not go away by itself: do not spin
			continue
		case from.Pid != nl.PidKernel:
			continue
		}
		for _, m := range messages {
			switch m.Header.Type {
			case nl.XFRM_MSG_EXPIRE:
				b.expired(m.Data)
			case nl.XFRM_MSG_ACQUIRE:
				b.acquired(m.Data)
			case nl.XFRM_MSG_MAPPING:
				b.mapped(m.Data, moved)
			}
		}
	}
}

// expired takes an XFRM_MSG_EXPIRE: struct xfrm_user_expire.
func (b *Backend) expired(body []byte) {
	if len(body) <= nl.SizeofXfrmUsersaInfo {
		return
	}
	info := nl.DeserializeXfrmUsersaInfo(body)
	hard := body[nl.SizeofXfrmUsersaInfo] != 0
	id := ipsec.SAID{Dst: addressOf(info.Id.Daddr, info.Family), SPI: ipsec.SPI(bigEndian32(info.Id.Spi))}
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.sas[id]
	if a == nil || info.Id.Proto != unix.IPPROTO_ESP {
		return
	}
	last := stateOf(body[:nl.SizeofXfrmUsersaInfo], a.record.Direction)
	last.Sequence = a.state.Sequence // which the report does not tell
	if a.record.Direction == ipsec.Out {
		last.Sequence = max(last.Sequence, last.Packets)
	}
	a.look(last, time.Now())
	if hard {
		b.expire(id, a)
		return
	}
	if !a.soft {
		a.soft = true
		b.events.Emit(ipsec.Event{Kind: ipsec.EventSoftExpire, ReqID: a.record.ReqID, SA: id})
	}
}

// acquired takes an XFRM_MSG_ACQUIRE: struct xfrm_user_acquire with a template.
func (b *Backend) acquired(body []byte) {
	if len(body) < acquireLen {
		return
	}
	template := attributes(body[acquireLen:])[nl.XFRMA_TMPL]
	if len(template) < nl.SizeofXfrmUserTmpl {
		return
	}
	reqID := nl.DeserializeXfrmUserTmpl(template).Reqid
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.policies {
		if p.Action == ipsec.Protect && p.ReqID == reqID {
			b.events.Emit(ipsec.Event{Kind: ipsec.EventAcquire, ReqID: reqID})
			return
		}
	}
}

// mapped takes an XFRM_MSG_MAPPING, struct xfrm_user_mapping: a packet that an SA
// has authenticated came from another address or port. Only the key exchange
// decides whether to follow (RFC 7296, section 2.23).
func (b *Backend) mapped(body []byte, moved map[ipsec.SAID]time.Time) {
	if len(body) < mappingLen {
		return
	}
	name := nl.DeserializeXfrmUsersaId(body)
	id := ipsec.SAID{Dst: addressOf(name.Daddr, name.Family), SPI: ipsec.SPI(bigEndian32(name.Spi))}
	rest := body[nl.SizeofXfrmUsersaId+4+nl.SizeofXfrmAddress:]
	from := netip.AddrPortFrom(addressOf(nl.XfrmAddress(rest[:nl.SizeofXfrmAddress]), name.Family),
		binary.BigEndian.Uint16(rest[nl.SizeofXfrmAddress+2:]))
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.sas[id]
	now := time.Now()
	for other, at := range moved {
		if now.Sub(at) >= movedPause {
			delete(moved, other)
		}
	}
	if _, told := moved[id]; a == nil || told {
		return
	}
	moved[id] = now
	b.events.Emit(ipsec.Event{Kind: ipsec.EventMoved, ReqID: a.record.ReqID, SA: id, From: from})
}

// resync looks which SAs the kernel has no more.
func (b *Backend) resync() {
	b.mu.Lock()
	var ids []ipsec.SAID
	for id := range b.sas {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	for _, id := range ids {
		if _, err := b.QuerySA(id); err != nil && !errors.Is(err, ipsec.ErrNotFound) {
			b.log.Warn("SA not looked at", "sa", id, "error", err)
		}
	}
}
