//go:build netns

package sslvpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// numbered is datagrams with sequence numbers from a client's host through the
// tunnel to the host behind the server, which answers each with itself. It says
// how often each has arrived at either end.
type numbered struct {
	there, here *net.UDPConn
	stop        chan struct{}
	running     sync.WaitGroup

	mu             sync.Mutex
	arrived, again []int // by sequence number: at the host, and back at the client
}

const (
	numberedPort   = 7007
	numberedRate   = 500 // a second
	numberedLength = 200 // octets
	// What a stock client and a device hold while a busy machine runs neither.
	longQueue = 20000
)

// startNumbered begins at once; the client's host sends from the address.
func (s *site) startNumbered(virtual netip.Addr) *numbered {
	s.t.Helper()
	n := &numbered{stop: make(chan struct{})}
	var err error
	if n.there, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(stockHost, numberedPort))); err != nil {
		s.t.Fatal(err)
	}
	s.atClient(func() (err error) {
		n.here, err = net.DialUDP("udp", &net.UDPAddr{IP: virtual.AsSlice()}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(stockHost, numberedPort)))
		return err
	})
	for _, c := range []*net.UDPConn{n.there, n.here} {
		if err := netlab.ForceBuffer(c); err != nil {
			s.t.Fatal(err)
		}
	}
	n.running.Go(func() { n.read(n.there, &n.arrived, true) })
	n.running.Go(func() { n.read(n.here, &n.again, false) })
	n.running.Go(n.write)
	return n
}

// atClient runs f on a thread in the client's namespace: sockets that it opens
// stay there.
func (s *site) atClient(f func() error) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + s.client)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func (n *numbered) write() {
	ticker := time.NewTicker(time.Second / numberedRate) // a late one is left out
	defer ticker.Stop()
	packet := make([]byte, numberedLength)
	for {
		select {
		case <-n.stop:
			return
		case <-ticker.C:
		}
		n.mu.Lock()
		binary.BigEndian.PutUint64(packet, uint64(len(n.arrived)))
		n.arrived, n.again = append(n.arrived, 0), append(n.again, 0)
		n.mu.Unlock()
		_, _ = n.here.Write(packet) // what is refused is lost
	}
}

func (n *numbered) read(c *net.UDPConn, counts *[]int, answer bool) {
	packet := make([]byte, 2*numberedLength)
	for {
		length, from, err := c.ReadFromUDPAddrPort(packet)
		if err != nil {
			return
		}
		if length != numberedLength {
			continue
		}
		n.mu.Lock()
		if i := binary.BigEndian.Uint64(packet); i < uint64(len(*counts)) {
			(*counts)[i]++
		}
		n.mu.Unlock()
		if answer {
			_, _ = c.WriteToUDPAddrPort(packet[:length], from)
		}
	}
}

// counted returns how many datagrams were sent, how many did not come back, and
// how many have arrived somewhere more than once.
func (n *numbered) counted() (sent, lost, twice int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.arrived {
		if n.again[i] == 0 {
			lost++
		}
		if n.arrived[i] > 1 || n.again[i] > 1 {
			twice++
		}
	}
	return len(n.arrived), lost, twice
}

// finish ends the stream; what is under way is waited for, as long as anything
// still comes.
func (n *numbered) finish() (sent, lost, twice int) {
	close(n.stop)
	for before := -1; ; time.Sleep(time.Second) {
		sent, lost, twice = n.counted()
		if lost == 0 || lost == before {
			break
		}
		before = lost
	}
	_, _ = n.there.Close(), n.here.Close()
	n.running.Wait()
	return sent, lost, twice
}

// overruns returns what full queues have dropped on the way: of devices and of
// sockets in both namespaces, and of the server towards the client.
func (s *site) overruns() int {
	s.t.Helper()
	sum := int(s.server.Snapshot()[0].Drops[reasonQueueFull.String()])
	for _, at := range [][]string{nil, {"ip", "netns", "exec", s.client}} {
		read := func(file string) string {
			args := append(at[:len(at):len(at)], "cat", file)
			return s.run(args[0], args[1:]...)
		}
		n, err := netlab.ParseOverruns(read("/proc/net/dev"), read("/proc/net/snmp"))
		if err != nil {
			s.t.Error(err)
		}
		sum += n
	}
	return sum
}

// carry begins a bulk transfer of TCP through the tunnel beside the rest. The
// function that it returns ends it, and says what went wrong: that a connection
// broke, or that other octets have come than were sent.
func (s *site) carry(virtual netip.Addr) (finish func() error) {
	s.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(stockHost, numberedPort).String())
	if err != nil {
		s.t.Fatal(err)
	}
	var out net.Conn
	s.atClient(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: virtual.AsSlice()}, Timeout: time.Minute}
		out, err = d.Dial("tcp", listener.Addr().String())
		return err
	})
	in, err := listener.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	_ = listener.Close()
	stop, sent, read := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	const piece, every = 16 << 10, 20 * time.Millisecond // 800 kB/s
	var total uint64
	go func() {
		sent <- func() error {
			ticker := time.NewTicker(every)
			defer ticker.Stop()
			for b := make([]byte, piece); ; {
				select {
				case <-stop:
					return out.Close()
				case <-ticker.C:
				}
				for i := 0; i < len(b); i += 8 {
					binary.BigEndian.PutUint64(b[i:], total+uint64(i))
				}
				if _, err := out.Write(b); err != nil {
					return err
				}
				total += piece
			}
		}()
	}()
	var got uint64
	go func() {
		read <- func() error {
			for b := make([]byte, piece); ; got += piece {
				if _, err := io.ReadFull(in, b); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				for i := 0; i < len(b); i += 8 {
					if at := binary.BigEndian.Uint64(b[i:]); at != got+uint64(i) {
						return fmt.Errorf("octet %d came as octet %d", at, got+uint64(i))
					}
				}
			}
		}()
	}()
	return func() error {
		close(stop)
		if err := <-sent; err != nil {
			return fmt.Errorf("send: %w", err)
		}
		_ = in.SetReadDeadline(time.Now().Add(time.Minute))
		err := <-read
		_ = in.Close()
		if err == nil && (got != total || total == 0) {
			err = fmt.Errorf("%d octets of %d have come", got, total)
		}
		return err
	}
}
