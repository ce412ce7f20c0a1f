package connlog

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
)

// Severities of RFC 5424, section 6.2.1.
const (
	severityWarning = 4
	severityInfo    = 6
)

const syslogTimeout = 5 * time.Second

// syslogSink sends messages of RFC 5424 whose text is the line of the record:
// one in each datagram, and over TCP with the octets counted (RFC 6587, section
// 3.4.1).
type syslogSink struct {
	config control.SyslogSink
	host   string
	conn   net.Conn
}

func (s *syslogSink) deliver(ctx context.Context, batch []Record) (int, error) {
	network, address, _ := strings.Cut(s.config.Address, ":")
	if s.conn == nil {
		dialNetwork := network
		if network == "unix" {
			dialNetwork = "unixgram"
		}
		dialer := net.Dialer{Timeout: syslogTimeout}
		conn, err := dialer.DialContext(ctx, dialNetwork, address)
		if err != nil {
			return 0, err
		}
		s.conn = conn
	}
	for i := range batch {
		if err := ctx.Err(); err != nil {
			return i, err
		}
		message := s.message(&batch[i])
		if network == "tcp" {
			message = fmt.Sprintf("%d %s", len(message), message)
		}
		err := s.conn.SetWriteDeadline(time.Now().Add(syslogTimeout))
		if err == nil {
			_, err = s.conn.Write([]byte(message))
		}
		if err != nil {
			s.close()
			return i, err
		}
	}
	return len(batch), nil
}

// message returns the syslog message of a record. A host without a name is "-".
func (s *syslogSink) message(r *Record) string {
	severity := severityInfo
	if r.Event == AuthenticationFailed {
		severity = severityWarning
	}
	return fmt.Sprintf("<%d>1 %s %s vpngw %d %s - %s", 8*s.config.Facility+severity,
		r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), printable(s.host), os.Getpid(), printable(string(r.Event)), r.line())
}

// printable makes a text one that may stand in the header of a message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), 255)]
}

func (s *syslogSink) close() {
	if s.conn != nil {
		_ = s.conn.Close() // it is given up
		s.conn = nil
	}
}
