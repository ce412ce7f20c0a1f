package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// ikeLab is an initiator's namespace (a) with an address for each tunnel, and a
// responder's (b).
type ikeLab struct {
	*netlab.Lab
	pair
	tunnels int
	group   string
	psk     string
}

func newIKELab(ctx context.Context, tunnels int, group string) (_ *ikeLab, err error) {
	lab, err := netlab.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Close())
		}
	}()
	l := &ikeLab{Lab: lab, tunnels: tunnels, group: group, psk: "0123456789abcdef-benchmark"}
	if l.pair, err = newPair(ctx, lab); err != nil {
		return nil, err
	}
	var lines []string
	for i := range tunnels {
		lines = append(lines, fmt.Sprintf("addr add %s/32 dev lo", ikeOuter(i)), fmt.Sprintf("addr add %s/32 dev lo", ikeInner(i)))
	}
	if err := l.a.IP(ctx, lines...); err != nil {
		return nil, err
	}
	return l, l.b.IP(ctx, fmt.Sprintf("route add %s via %s", ikeOuters, l.a.outer), fmt.Sprintf("route add %s via %s", ikeInners, l.a.outer))
}

// ikeEnd is a program at one end of the tunnels.
type ikeEnd struct {
	process *netlab.Process    // of vpngw
	swan    *netlab.StrongSwan // or that
	tunnels int
}

func (l *ikeLab) responder(ctx context.Context, name string) (*ikeEnd, error) {
	if name == endStrongSwan {
		return l.swan(ctx, &l.b, netlab.SwanConnection{
			Name: "any", Local: l.b.outer, RemoteID: "%any", PSK: l.psk, Unique: "never",
			Proposal: "aes128-sha256-" + l.group, ESPProposal: "aes128gcm16",
			Children: []netlab.SwanChild{{Name: "net", Local: []netip.Prefix{ikeBehind}, Remote: []netip.Prefix{ikeInners}}},
		})
	}
	return l.node(&l.b, ikeNodeConfig{})
}

func (l *ikeLab) initiator(ctx context.Context, name string) (*ikeEnd, error) {
	if name == endStrongSwan {
		var list []netlab.SwanConnection
		for i := range l.tunnels {
			list = append(list, l.swanTunnel(i, ikeNodeConfig{}))
		}
		return l.swan(ctx, &l.a, list...)
	}
	return l.node(&l.a, ikeNodeConfig{Initiate: true})
}

// swanTunnel returns the initiator's configuration of tunnel i.
func (l *ikeLab) swanTunnel(i int, c ikeNodeConfig) netlab.SwanConnection {
	return netlab.SwanConnection{
		Name: fmt.Sprintf("gw%d", i), Local: ikeOuter(i), Remote: l.b.outer, PSK: l.psk, Unique: "never",
		V1: c.Version == 1, Aggressive: c.Aggressive,
		Proposal: "aes128-sha256-" + l.group, ESPProposal: "aes128gcm16",
		Children: []netlab.SwanChild{{
			Name: fmt.Sprintf("net%d", i), Local: []netip.Prefix{netip.PrefixFrom(ikeInner(i), 32)}, Remote: []netip.Prefix{ikeBehind},
		}},
	}
}

// swan starts a charon with the settings for many tunnels.
func (l *ikeLab) swan(ctx context.Context, s *side, connections ...netlab.SwanConnection) (*ikeEnd, error) {
	swan, err := s.StartStrongSwan(ctx, "charon-"+s.role, netlab.SwanConfig(connections...), map[string]string{
		"dos_protection": "no", "reuse_ikesa": "no", "ikesa_table_size": "1024", "ikesa_table_segments": "16",
		"threads": "32", "install_routes": "no", "filelog.main.default": "0",
	})
	if err != nil {
		return nil, err
	}
	return &ikeEnd{swan: swan, tunnels: l.tunnels}, nil
}

// node starts vpngw's end.
func (l *ikeLab) node(s *side, c ikeNodeConfig) (*ikeEnd, error) {
	c.Tunnels, c.Responder, c.Group, c.PSK = l.tunnels, l.b.outer, ikeGroups[l.group], l.psk
	return l.program(s, "node-"+s.role, "ike-node", c)
}

// program starts a command of this program and waits until it is ready.
func (l *ikeLab) program(s *side, name, command string, config any) (*ikeEnd, error) {
	content, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	file, err := s.write(name+".json", content)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process, err := s.Start(name, nil, self, command, file)
	if err != nil {
		return nil, err
	}
	end := &ikeEnd{process: process, tunnels: l.tunnels}
	_, err = end.says(context.Background(), "ready")
	return end, err
}

// says waits for a line that begins with a word, and returns its rest.
func (e *ikeEnd) says(ctx context.Context, word string) (rest string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err = netlab.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		for line := range strings.Lines(e.process.Output()) {
			if first, second, _ := strings.Cut(strings.TrimSpace(line), " "); first == word {
				rest = second
				return true, nil
			}
		}
		select {
		case <-e.process.Done():
			return false, errors.New("it ended")
		default:
			return false, nil
		}
	})
	if err != nil {
		return "", fmt.Errorf("%s did not say %q: %w: %s", e.process.Name, word, err, e.process.Errors())
	}
	return rest, nil
}

// ikeUsage is what a responder has used.
type ikeUsage struct {
	cpu      time.Duration
	resident int    // octets
	dropped  uint64 // datagrams; of vpngw only
}

func (e *ikeEnd) pid() int {
	if e.swan != nil {
		return e.swan.PID()
	}
	return e.process.PID
}

// usage returns what the responder has used so far, without memory that it would
// give back.
func (e *ikeEnd) usage(ctx context.Context) (u ikeUsage, err error) {
	pid := e.pid()
	if u.cpu, err = processTime(strconv.Itoa(pid)); err != nil {
		return u, err
	}
	if e.process != nil {
		if u.dropped, err = e.collect(ctx); err != nil {
			return u, err
		}
	}
	u.resident, err = residentMemory(pid)
	return u, err
}

// collect lets a node give memory back, and returns what it says when it has done
// so once more.
func (e *ikeEnd) collect(ctx context.Context) (dropped uint64, err error) {
	said := func() (lines []string) {
		for line := range strings.Lines(e.process.Output()) {
			if rest, ok := strings.CutPrefix(line, "collected "); ok && strings.HasSuffix(rest, "\n") {
				lines = append(lines, strings.TrimSpace(rest))
			}
		}
		return lines
	}
	before := len(said())
	if err := e.process.Signal(unix.SIGUSR1); err != nil {
		return 0, err
	}
	err = netlab.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		lines := said()
		if len(lines) <= before {
			return false, nil
		}
		dropped, err = strconv.ParseUint(lines[len(lines)-1], 10, 64)
		return true, err
	})
	return dropped, err
}

// initiate sets all tunnels up and returns how long that took.
func (e *ikeEnd) initiate(ctx context.Context) (time.Duration, error) {
	if e.swan != nil {
		return e.initiateSwan(ctx)
	}
	if err := e.process.Signal(unix.SIGUSR1); err != nil {
		return 0, err
	}
	took, err := e.says(ctx, "up")
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.ParseFloat(took, 64)
	return time.Duration(seconds * float64(time.Second)), err
}

// initiateSwan asks charon for all tunnels without waiting for one.
func (e *ikeEnd) initiateSwan(ctx context.Context) (took time.Duration, err error) {
	session, err := vici.NewSession(vici.WithAddr("unix", e.swan.Socket()))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	begin := time.Now()
	for i := range e.tunnels {
		m := vici.NewMessage()
		for _, kv := range [][2]string{
			{"ike", fmt.Sprintf("gw%d", i)}, {"child", fmt.Sprintf("net%d", i)}, {"timeout", "-1"}, {"init-limits", "no"},
		} {
			if err := m.Set(kv[0], kv[1]); err != nil {
				return 0, err
			}
		}
		if _, err := session.Call(ctx, "initiate", m); err != nil {
			return 0, fmt.Errorf("initiate tunnel %d: %w", i, err)
		}
	}
	patience, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	installed := 0
	err = netlab.Poll(patience, 20*time.Millisecond, func() (bool, error) {
		half, err := halfOpen(patience, session)
		if err != nil || half > 0 {
			return false, err
		}
		took = time.Since(begin)
		installed, err = e.installed(patience)
		return installed == e.tunnels, err
	})
	if err != nil {
		return 0, fmt.Errorf("%d of %d CHILD_SAs are installed: %w", installed, e.tunnels, err)
	}
	return took, nil
}

// halfOpen returns how many IKE SAs of charon's are being negotiated.
func halfOpen(ctx context.Context, session *vici.Session) (int, error) {
	stats, err := session.Call(ctx, "stats", nil)
	if err != nil {
		return 0, err
	}
	sas, _ := stats.Get("ikesas").(*vici.Message)
	if sas == nil {
		return 0, errors.New("charon's statistics have no IKE SAs")
	}
	count, _ := sas.Get("half-open").(string)
	return strconv.Atoi(count)
}

// installed returns how many CHILD_SAs of charon's are up.
func (e *ikeEnd) installed(ctx context.Context) (count int, err error) {
	sas, err := e.swan.SAs(ctx)
	for _, ike := range sas {
		for _, child := range ike.Children {
			if child.State == "INSTALLED" {
				count++
			}
		}
	}
	return count, err
}
