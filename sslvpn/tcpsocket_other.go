//go:build !linux

package sslvpn

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// tcpSocket reads and writes a TCP connection by calls that wait, which is all that
// every system has.
type tcpSocket struct{ conn *net.TCPConn }

const canGather = false

func newTCPSocket(conn *net.TCPConn) (*tcpSocket, error) { return &tcpSocket{conn}, nil }

// write leaves the writing to the goroutine that may wait.
func (s *tcpSocket) write([]byte) (int, error) { return 0, errWouldBlock }

// read reads into a buffer that it has borrowed. Without an error the reader has it.
func (s *tcpSocket) read(r *reader) error {
	n, err := s.conn.Read(r.borrow())
	if r.n = n; n > 0 || errors.Is(err, io.EOF) {
		return nil
	}
	r.giveBack()
	return fmt.Errorf("read: %w", err)
}

func (s *tcpSocket) wakeAt(int) {}
