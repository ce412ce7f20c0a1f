//go:build linux

package udp

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ipv4HeaderLen = 20
	protocolESP   = 50
	flagDF        = 0x40 // in the octet of flags of an IPv4 header
)

// sendRaw sends each packet over IPv4 as IP protocol 50, with a header of our own.
// One that does not fit the path goes through the socket that receives, where the
// kernel cuts it.
func (s *Sender) sendRaw(socket *socket, p *Path, data []byte, size int, tos uint8) (failed int, err error) {
	controlLen := s.control(p, 0, tos)
	count := 0
	for at := 0; at < len(data); at += size {
		packet := data[at:min(at+size, len(data))]
		s.prepare(count, p, packet, controlLen)
		header := s.header(count, socket.sends, p, tos)
		iov := &s.iovs[2*count]
		iov.Base = unsafe.SliceData(header)
		iov.SetLen(len(header))
		s.msgs[count].hdr.Iov = iov
		s.msgs[count].hdr.SetIovlen(2)
		count++
	}
	tooBig := false
	for at := 0; at < count; {
		e := s.call(socket.sends, p, at, count)
		if errors.Is(e, unix.EMSGSIZE) {
			tooBig = true
			s.prepare(at, p, data[at*size:min((at+1)*size, len(data))], controlLen)
			e = s.call(socket, p, at, at+1)
		}
		if e == nil {
			at += s.n
			continue
		}
		s.mux.stats.sendErrors.Add(1)
		failed++
		if err == nil {
			err = fmt.Errorf("udp: send to %s: %w", p.Remote.Addr(), e)
		}
		at++ // the kernel stopped at this one
	}
	if tooBig {
		err = errors.Join(err, fmt.Errorf("udp: %d octets to %s: %w", size, p.Remote.Addr(), ErrTooBig))
	}
	return failed, err
}

// header writes the IP header of message i. The kernel adds lengths, checksum and,
// of packets that may be fragmented, the identification (raw(7)).
func (s *Sender) header(i int, out *socket, p *Path, tos uint8) []byte {
	h := s.headers[i][:]
	clear(h)
	h[0], h[1] = 4<<4|ipv4HeaderLen/4, tos
	if !p.fragmentable {
		h[6] = flagDF
	}
	h[8], h[9] = out.ttl, protocolESP
	local, remote := p.Local.Addr().As4(), p.Remote.Addr().As4()
	copy(h[12:], local[:])
	copy(h[16:], remote[:])
	return h
}
