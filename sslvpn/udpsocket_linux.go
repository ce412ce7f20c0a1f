package sslvpn

import (
	"net/netip"
	"sync"

	"github.com/vpngw/vpngw/dataplane/udp"
)

// openUDP opens a socket that sends and receives many packets with one system call.
func openUDP(local netip.AddrPort, h datagramHandler, o udpOptions) (udpSocket, error) {
	port, err := udp.Listen(local, func() udp.DatagramReceiver { return &datagrams{handler: h} },
		udp.PortOptions{Logger: o.log, Sockets: o.cores, Guard: o.guard})
	if err != nil {
		return nil, err
	}
	s := &batchSocket{port: port}
	s.senders.New = func() any { return port.NewSender() }
	return s, nil
}

type batchSocket struct {
	port    *udp.Port
	senders sync.Pool // of *udp.Sender
}

func (s *batchSocket) local() netip.AddrPort { return s.port.Local() }
func (s *batchSocket) close() error          { return s.port.Close() }

func (s *batchSocket) path(remote netip.AddrPort) (udpPath, error) {
	to, err := udp.NewPath(s.local(), remote, true)
	return &batchPath{s, to}, err
}

type batchPath struct {
	socket *batchSocket
	to     *udp.Path
}

func (p *batchPath) remote() netip.AddrPort { return p.to.Remote }

func (p *batchPath) send(packets []byte, size int) (failed int, err error) {
	sender := p.socket.senders.Get().(*udp.Sender)
	defer p.socket.senders.Put(sender)
	return sender.Send(p.to, packets, size, 0)
}
