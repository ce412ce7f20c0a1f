package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ping is a stream of echo requests under way.
type Ping struct {
	process *Process
	tail    int // how many requests a busy machine may leave unanswered for a while
}

// PingReport is what became of a stream of echo requests.
type PingReport struct {
	Sent int
	Lost []int // sequence numbers without an answer, from 1
	// Longest is that of the round trips; zero: there was none.
	Longest time.Duration
}

// String names the lost ones.
func (r PingReport) String() string {
	return fmt.Sprintf("%d of %d pings lost %v", len(r.Lost), r.Sent, r.Lost)
}

// StartPing sends echo requests until Finish. Source may be the zero Addr.
func (n *Namespace) StartPing(name string, source, target netip.Addr, every time.Duration) (*Ping, error) {
	args := []string{"ping", "-n", "-i", fmt.Sprintf("%.3f", every.Seconds())}
	if source.IsValid() {
		args = append(args, "-I", source.String())
	}
	process, err := n.Start(name, nil, append(args, target.String())...)
	if err != nil {
		return nil, err
	}
	return &Ping{process, max(1, int(underWay/every))}, nil
}

// Received returns how many answers came so far.
func (p *Ping) Received() int { return len(pingAnswer.FindAllString(p.process.Output(), -1)) }

// underWay is for how long the answer to a request may be under way on a busy machine.
const underWay = time.Second

// Finish ends the stream. Requests of the last second without an answer, and with none
// after them, are left out of the report: their answers may have been under way.
func (p *Ping) Finish(ctx context.Context) (PingReport, error) {
	if err := p.process.Signal(unix.SIGINT); err != nil {
		return PingReport{}, err
	}
	err := p.process.Wait(ctx) // ping fails when no answer came: the report says so
	if ctx.Err() != nil {
		return PingReport{}, err
	}
	return parsePing(p.process.Output(), p.tail)
}

var (
	pingAnswer  = regexp.MustCompile(`(?m)^\d+ bytes from .* icmp_seq=(\d+) `)
	pingTime    = regexp.MustCompile(`(?m) time=([0-9.]+) ms`)
	pingSummary = regexp.MustCompile(`(?m)^(\d+) packets transmitted, (\d+) received`)
)

func parsePing(out string, tail int) (PingReport, error) {
	summary := pingSummary.FindStringSubmatch(out)
	if summary == nil {
		return PingReport{}, fmt.Errorf("ping ended without a summary: %s", out)
	}
	sent, err := strconv.Atoi(summary[1])
	if err != nil {
		return PingReport{}, err
	}
	answered := map[int]bool{}
	for _, m := range pingAnswer.FindAllStringSubmatch(out, -1) {
		seq, err := strconv.Atoi(m[1])
		if err != nil {
			return PingReport{}, err
		}
		answered[seq] = true
	}
	last := sent
	for last > max(sent-tail, 0) && !answered[last] {
		last--
	}
	report := PingReport{Sent: last}
	for _, m := range pingTime.FindAllStringSubmatch(out, -1) {
		milliseconds, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return PingReport{}, err
		}
		report.Longest = max(report.Longest, time.Duration(milliseconds*float64(time.Millisecond)))
	}
	for seq := 1; seq <= last; seq++ {
		if !answered[seq] {
			report.Lost = append(report.Lost, seq)
		}
	}
	return report, nil
}

// WaitPing sends single echo requests until one is answered.
func (n *Namespace) WaitPing(ctx context.Context, source, target netip.Addr) error {
	args := []string{"ping", "-n", "-c", "1", "-W", "0.5"}
	if source.IsValid() {
		args = append(args, "-I", source.String())
	}
	tries := 0
	err := Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		tries++
		_, err := n.Run(ctx, append(args, target.String())...)
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s does not answer %s after %d pings: %w", target, n.Name, tries, err)
	}
	return nil
}

// Overruns returns how many packets were dropped in the namespace, since it was
// made, because the queue of a device or the buffer of a UDP socket was full: what
// a busy machine loses, and a tunnel has no part in.
func (n *Namespace) Overruns(ctx context.Context) (int, error) {
	devices, err := n.Run(ctx, "cat", "/proc/net/dev")
	if err != nil {
		return 0, err
	}
	sockets, err := n.Run(ctx, "cat", "/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	return ParseOverruns(devices, sockets)
}

// ParseOverruns is Overruns for the contents of a namespace's /proc/net/dev and
// /proc/net/snmp.
func ParseOverruns(devices, sockets string) (sum int, err error) {
	var counts []string
	for line := range strings.Lines(devices) {
		if _, figures, ok := strings.Cut(line, ":"); ok {
			f := strings.Fields(figures)
			if len(f) < 12 {
				return 0, fmt.Errorf("device counters %q: too few fields", line)
			}
			counts = append(counts, f[3], f[11]) // received, sent
		}
	}
	var names []string
	for line := range strings.Lines(sockets) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] != "Udp:":
		case names == nil:
			names = f
		default:
			for i, name := range names[:min(len(names), len(f))] {
				if name == "RcvbufErrors" || name == "SndbufErrors" {
					counts = append(counts, f[i])
				}
			}
		}
	}
	for _, c := range counts {
		n, err := strconv.Atoi(c)
		if err != nil {
			return 0, fmt.Errorf("counter: %w", err)
		}
		sum += n
	}
	return sum, nil
}

// IPerf says what iperf3 is to do. The zero value is one TCP flow for ten
// seconds.
type IPerf struct {
	Duration time.Duration
	UDP      bool
	Rate     string // the wanted rate, such as "50M" bit/s; empty: unlimited, for UDP 1 Mbit/s
	Length   int    // octets of a datagram; zero: iperf3's own
	Window   int    // octets of the TCP socket's buffers; zero: the kernel's own choice
	Reverse  bool   // from the server to the client
	Port     int    // zero: 5201
	// Source is the client's address; the zero Addr: as the route says.
	Source netip.Addr
}

// IPerfReport is what the receiver got.
type IPerfReport struct {
	BitsPerSecond float64
	Packets, Lost int // UDP
	Retransmits   int // TCP
}

// String reads "0.95 Gbit/s, 3 retransmits" or "50 Mbit/s, 1 of 900 datagrams lost".
func (r IPerfReport) String() string {
	rate := fmt.Sprintf("%.2f Gbit/s", r.BitsPerSecond/1e9)
	if r.BitsPerSecond < 1e9 {
		rate = fmt.Sprintf("%.0f Mbit/s", r.BitsPerSecond/1e6)
	}
	if r.Packets > 0 {
		return fmt.Sprintf("%s, %d of %d datagrams lost", rate, r.Lost, r.Packets)
	}
	return fmt.Sprintf("%s, %d retransmits", rate, r.Retransmits)
}

// RunIPerf runs iperf3 from client to the address of server.
func RunIPerf(ctx context.Context, client, server *Namespace, address netip.Addr, what IPerf) (IPerfReport, error) {
	if what.Duration == 0 {
		what.Duration = 10 * time.Second
	}
	if what.Port == 0 {
		what.Port = 5201
	}
	port := strconv.Itoa(what.Port)
	listener, err := server.Start("iperf3-server-"+port, nil, "iperf3", "-s", "-1", "-B", address.String(), "-p", port)
	if err != nil {
		return IPerfReport{}, err
	}
	defer listener.Kill() //nolint:errcheck // it ends by itself after one test
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(starting, 20*time.Millisecond, func() (bool, error) { return listener.listens(what.Port), nil })
	if err != nil {
		return IPerfReport{}, fmt.Errorf("iperf3 does not listen: %w: %s", err, listener.Errors())
	}

	args := []string{"iperf3", "-J", "-c", address.String(), "-p", port, "-t", fmt.Sprint(int(what.Duration.Seconds())), "--connect-timeout", "20000"}
	if what.UDP {
		args = append(args, "-u")
	}
	if what.Rate != "" {
		args = append(args, "-b", what.Rate)
	}
	if what.Length > 0 {
		args = append(args, "-l", strconv.Itoa(what.Length))
	}
	if what.Window > 0 {
		args = append(args, "-w", strconv.Itoa(what.Window))
	}
	if what.Reverse {
		args = append(args, "-R")
	}
	if what.Source.IsValid() {
		args = append(args, "-B", what.Source.String())
	}
	running, cancel := context.WithTimeout(ctx, what.Duration+patience)
	defer cancel()
	out, err := client.Run(running, args...)
	report, parseErr := parseIPerf(out, what.UDP)
	if err != nil && parseErr == nil {
		parseErr = err
	}
	return report, parseErr
}

func parseIPerf(out string, udp bool) (IPerfReport, error) {
	type sum struct {
		BitsPerSecond float64 `json:"bits_per_second"`
		Retransmits   int     `json:"retransmits"`
		Packets       int     `json:"packets"`
		LostPackets   int     `json:"lost_packets"`
	}
	var result struct {
		Error string `json:"error"`
		End   struct {
			Sum         sum `json:"sum"`
			SumSent     sum `json:"sum_sent"`
			SumReceived sum `json:"sum_received"`
		} `json:"end"`
	}
	if strings.TrimSpace(out) == "" {
		return IPerfReport{}, errors.New("iperf3 printed nothing")
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return IPerfReport{}, fmt.Errorf("read iperf3's report: %w", err)
	}
	if result.Error != "" {
		return IPerfReport{}, fmt.Errorf("iperf3: %s", result.Error)
	}
	end := result.End
	if udp {
		return IPerfReport{
			BitsPerSecond: end.Sum.BitsPerSecond * (1 - float64(end.Sum.LostPackets)/float64(max(end.Sum.Packets, 1))),
			Packets:       end.Sum.Packets,
			Lost:          end.Sum.LostPackets,
		}, nil
	}
	return IPerfReport{BitsPerSecond: end.SumReceived.BitsPerSecond, Retransmits: end.SumSent.Retransmits}, nil
}
