package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/ipv4"

	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// floodSources are the addresses that a flood forges.
var floodSources = netip.MustParsePrefix("10.128.0.0/9")

// floodKinds are the first messages that there are.
var floodKinds = []struct {
	name       string
	version    uint8
	aggressive bool
}{
	{"ikev2", 2, false},
	{"ikev1-main", 1, false},
	{"ikev1-aggressive", 1, true},
}

// floodConfig is what `vpnbench ike-flood` sends.
type floodConfig struct {
	ikeNodeConfig
	Rate    int // datagrams a second
	Seconds int
}

// newFloodCommand is what `vpnbench ike --flood` runs beside the initiator. It
// prints "sent" with the number of datagrams.
func newFloodCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "ike-flood-node FILE",
		Short:  "first messages from forged addresses",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := readConfig[floodConfig](args[0])
			if err != nil {
				return err
			}
			return c.send(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

// firstMessage returns the first message of an initiator of tunnel 0.
func (c *floodConfig) firstMessage() ([]byte, error) {
	c.Initiate = true
	connection := c.connection("flood", 0)
	env := &sa.Env{Host: &sa.Host{
		Rand: rand.Reader, AllocSPI: func(netip.Addr) (ipsec.SPI, error) { return 0x1000, nil },
		Candidates: func(_, _ netip.Addr) []*sa.Connection { return nil },
	}}
	var actions []sa.Action
	if c.Version == 1 {
		_, actions = sa.InitiateV1(time.Now(), env, &connection)
	} else {
		_, actions = sa.Initiate(time.Now(), env, &connection)
	}
	for _, a := range actions {
		if s, ok := a.(sa.Send); ok {
			return s.Datagram, nil
		}
	}
	return nil, errors.New("the initiator sends nothing")
}

const (
	floodBatch  = 64 // datagrams in one system call
	headersSize = ipv4.HeaderLen + 8
)

// send sends datagrams at the rate, or as many as the machine can.
func (c *floodConfig) send(ctx context.Context, out io.Writer) error {
	message, err := c.firstMessage()
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("ip4:udp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer socket.Close() //nolint:errcheck // nothing is lost with it
	raw, err := ipv4.NewRawConn(socket)
	if err != nil {
		return err
	}
	target := &net.IPAddr{IP: c.Responder.AsSlice()}
	batch := make([]ipv4.Message, floodBatch)
	for i := range batch {
		batch[i] = ipv4.Message{Buffers: [][]byte{c.datagram(message)}, Addr: target}
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	sent, begin := 0, time.Now()
	for end := begin.Add(time.Duration(c.Seconds) * time.Second); ctx.Err() == nil; {
		now := time.Now()
		if !now.Before(end) {
			break
		}
		if due := int(now.Sub(begin).Seconds() * float64(c.Rate)); due-sent < floodBatch {
			time.Sleep(200 * time.Microsecond)
			continue
		}
		for _, m := range batch {
			forge(m.Buffers[0])
		}
		n, err := raw.WriteBatch(batch, 0)
		if err != nil {
			return err
		}
		sent += n
	}
	_, err = fmt.Fprintln(out, "sent", sent)
	return err
}

// datagram puts IPv4 and UDP headers in front of a message. The kernel fills in
// the lengths, the identification and the checksum of IPv4; UDP goes without one.
func (c *floodConfig) datagram(message []byte) []byte {
	b := make([]byte, headersSize, headersSize+len(message))
	b[0], b[8], b[9] = 4<<4|ipv4.HeaderLen/4, 64, 17
	copy(b[16:20], c.Responder.AsSlice())
	binary.BigEndian.PutUint16(b[20:], udp.PortIKE)
	binary.BigEndian.PutUint16(b[22:], udp.PortIKE)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(message)))
	b = append(b, message...)
	binary.NativeEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// forge makes a datagram that of a new initiator at another address.
func forge(b []byte) {
	base := floodSources.Addr().As4()
	mask := uint32(1)<<(32-floodSources.Bits()) - 1
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(base[:])|mathrand.Uint32()&mask)
	binary.BigEndian.PutUint64(b[headersSize:], mathrand.Uint64()|1)
}

// floodResult is what a flood of one kind did.
type floodResult struct {
	Kind string `json:"kind"`
	// SentPerSecond and HandledPerSecond are first messages: of the generator, and
	// that came as far as the key exchange. The rest did not fit a socket's queue.
	SentPerSecond    float64 `json:"sent_per_second"`
	HandledPerSecond float64 `json:"handled_per_second"`
	// CPU is of the responder, in microseconds for each handled message.
	CPU float64 `json:"responder_cpu_us"`
	// Memory is by how much the responder's resident set grew, in MB.
	Memory float64 `json:"responder_grew_mb"`
	// Connect is how long a strongSwan took to set its tunnel up meanwhile.
	Connect float64 `json:"connect_seconds"`
}

// runFloods floods with each kind of first message.
func runFloods(ctx context.Context, o ikeOptions) ([]floodResult, error) {
	var results []floodResult
	for _, kind := range floodKinds {
		fmt.Fprintf(os.Stderr, "%s, %d a second, %d s …\n", kind.name, o.flood, o.seconds)
		r := floodResult{Kind: kind.name}
		if err := r.measure(ctx, o, ikeNodeConfig{Version: kind.version, Aggressive: kind.aggressive, Strangers: true}); err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

func (r *floodResult) measure(ctx context.Context, o ikeOptions, c ikeNodeConfig) (err error) {
	lab, err := newIKELab(ctx, 1, o.groups[0])
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, lab.Close()) }()
	if err := lab.b.IP(ctx, fmt.Sprintf("route add %s via %s", floodSources, lab.a.outer)); err != nil {
		return err
	}
	if err := lab.b.Sysctl(ctx, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.wire.rp_filter=0"); err != nil {
		return err
	}
	responder, err := lab.node(&lab.b, c)
	if err != nil {
		return err
	}
	peer, err := lab.swan(ctx, &lab.a, lab.swanTunnel(0, c))
	if err != nil {
		return err
	}
	before, err := responder.usage(ctx)
	if err != nil {
		return err
	}
	c.Responder, c.Group, c.PSK = lab.b.outer, ikeGroups[lab.group], lab.psk
	flood, err := lab.flood(floodConfig{ikeNodeConfig: c, Rate: o.flood, Seconds: o.seconds})
	if err != nil {
		return err
	}
	select { // in full spate
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(o.seconds) * time.Second / 4):
	}
	took, err := peer.initiate(ctx)
	if err != nil {
		return err
	}
	sent, err := flood.says(ctx, "sent")
	if err != nil {
		return err
	}
	after, err := responder.usage(ctx)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(sent)
	if err != nil {
		return err
	}
	handled := after.dropped - before.dropped
	r.SentPerSecond = float64(count) / float64(o.seconds)
	r.HandledPerSecond = float64(handled) / float64(o.seconds)
	r.CPU = float64((after.cpu - before.cpu).Microseconds()) / float64(max(handled, 1))
	r.Memory = float64(after.resident-before.resident) / 1e6
	r.Connect = took.Seconds()
	return nil
}

// flood starts the generator on the initiator's side.
func (l *ikeLab) flood(c floodConfig) (*ikeEnd, error) {
	return l.program(&l.a, "flood", "ike-flood-node", c)
}

func floodTable(results []floodResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-18s %10s %10s %12s %10s %10s\n", "first messages", "sent/s", "handled/s", "CPU us each", "grew MB", "connect s")
	for _, r := range results {
		fmt.Fprintf(&b, "%-18s %10.0f %10.0f %12.2f %10.1f %10.2f\n", r.Kind, r.SentPerSecond, r.HandledPerSecond, r.CPU, r.Memory, r.Connect)
	}
	return b.String()
}
