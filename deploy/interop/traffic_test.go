//go:build e2e

package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

const (
	echoPort = 7007
	// answerTime is how long an answer may take on a machine that does much else.
	answerTime = 15 * time.Second
	// atOnce is how many cells have traffic at the same time.
	atOnce = 4
)

// payloads are the lengths of what each side sends to the other one, which comes
// back as it is: the last as an echo request, the others as datagrams.
var payloads = [...]int{1, 517, 1300, 56}

// What passes a tunnel each way when both sides have sent all payloads.
const exchangedPackets = 2 * len(payloads)

func exchangedOctets() (sum int) {
	for _, n := range payloads {
		sum += 2 * (20 + 8 + n) // IPv4, UDP or ICMP
	}
	return sum
}

// exchange sends the payloads through each cell that is not to be skipped, from
// both sides, and returns what went wrong by number of the cell.
func (w *world) exchange(routers []*router, skip func(c cell) bool) map[int]error {
	w.t.Helper()
	w.answer(w.CloudHost, cloudHost)
	var all []func() (int, error)
	for _, r := range routers {
		for _, c := range r.cells {
			if skip(c) {
				continue
			}
			w.answer(r.Namespace, c.host())
			all = append(all, func() (int, error) {
				return c.Number, errors.Join(
					send(w.CloudHost, cloudHost, c.host(), w.answerTime),
					send(r.Namespace, c.host(), cloudHost, w.answerTime))
			})
		}
	}
	failed := map[int]error{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, one := range all {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			if number, err := one(); err != nil {
				mu.Lock()
				failed[number] = err
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return failed
}

// answer sends datagrams to an address back until the test ends.
func (w *world) answer(n *netlab.Namespace, address netip.Addr) {
	w.t.Helper()
	if w.answers[address] {
		return
	}
	w.answers[address] = true
	var conn *net.UDPConn
	w.check(n.Inside(func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, echoPort)))
		return err
	}))
	w.t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, mtu)
		for {
			length, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // closed
			}
			_, _ = conn.WriteToUDPAddrPort(buffer[:length], from)
		}
	}()
}

// send sends the payloads, each once the one before came back, which may take
// until the limit.
func send(n *netlab.Namespace, source, target netip.Addr, limit time.Duration) error {
	var datagrams, echoes net.Conn
	err := n.Inside(func() (err error) {
		if datagrams, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(target, echoPort))); err != nil {
			return err
		}
		echoes, err = net.DialIP("ip4:icmp", &net.IPAddr{IP: source.AsSlice()}, &net.IPAddr{IP: target.AsSlice()})
		return err
	})
	if datagrams != nil {
		defer datagrams.Close()
	}
	if err != nil {
		return err
	}
	defer echoes.Close()
	last := len(payloads) - 1
	for i, length := range payloads[:last] {
		payload := bytes.Repeat([]byte{byte(i + 1)}, length)
		if err := roundTrip(datagrams, limit, payload, func(b []byte) bool { return bytes.Equal(b, payload) }); err != nil {
			return fmt.Errorf("a datagram of %d octets from %s to %s: %w", length, source, target, err)
		}
	}
	id := uint16(os.Getpid())
	request := echo(8, id, payloads[last])
	reply := echo(0, id, payloads[last]) // after the IP header
	if err := roundTrip(echoes, limit, request, func(b []byte) bool { return bytes.HasSuffix(b, reply) }); err != nil {
		return fmt.Errorf("an echo request from %s to %s: %w", source, target, err)
	}
	return nil
}

// roundTrip sends a packet and waits until the limit for one that is the answer.
func roundTrip(conn net.Conn, limit time.Duration, packet []byte, isAnswer func([]byte) bool) error {
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	buffer := make([]byte, mtu)
	for {
		length, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		if isAnswer(buffer[:length]) {
			return nil
		}
	}
}

// echo is an ICMP echo message (RFC 792).
func echo(kind byte, id uint16, length int) []byte {
	m := slices.Concat([]byte{kind, 0, 0, 0}, binary.BigEndian.AppendUint16(nil, id), []byte{0, 1}, make([]byte, length))
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum))
	return m
}

func TestEcho(t *testing.T) {
	t.Parallel()
	request := echo(8, 0x1234, 2)
	if want := []byte{8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1, 0, 0}; !bytes.Equal(request, want) {
		t.Errorf("have %x, want %x", request, want)
	}
}
