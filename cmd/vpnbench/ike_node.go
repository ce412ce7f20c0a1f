package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// ikeNodeConfig is one end of many tunnels: vpngw's key exchange with its data
// plane.
type ikeNodeConfig struct {
	// Tunnels is how many connections there are. Tunnel i is between the address
	// ikeOuter(i) of the initiator and Responder.
	Tunnels   int
	Responder netip.Addr
	Initiate  bool
	// Strangers adds a connection whose peer may be at any address.
	Strangers bool
	// Version of IKE, zero for 2; Aggressive is for phase 1 of version 1.
	Version    uint8
	Aggressive bool
	Group      uint16 // of the IKE SA
	PSK        string
}

// serverSize is how many tunnels an initiator gives to one ike.Server, which
// spreads its first negotiations over time to spare its peers: here they are to
// come at once.
const serverSize = 50

// ikeOuter and ikeInner are the initiator's addresses of tunnel i: where its IKE
// comes from, and what the tunnel protects.
func ikeOuter(i int) netip.Addr { return nth(netip.MustParseAddr("10.32.0.1"), i) }
func ikeInner(i int) netip.Addr { return nth(netip.MustParseAddr("10.100.0.1"), i) }

func nth(first netip.Addr, i int) netip.Addr {
	a := first.As4()
	n := int(a[2])<<8 + int(a[3]) + i
	a[1], a[2], a[3] = a[1]+byte(n>>16), byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

var (
	// ikeOuters and ikeInners hold the addresses of all tunnels.
	ikeOuters = netip.MustParsePrefix("10.32.0.0/14")
	ikeInners = netip.MustParsePrefix("10.100.0.0/14")
	// ikeBehind is what the responder's tunnels protect.
	ikeBehind = netip.MustParsePrefix("10.128.0.0/24")
)

// maxIKETunnels is how many addresses ikeOuters has, less than half of them.
const maxIKETunnels = 100_000

// connections returns the configuration of tunnels from up to to.
func (c *ikeNodeConfig) connections(from, to int) []sa.Connection {
	var list []sa.Connection
	for i := from; i < to; i++ {
		list = append(list, c.connection(fmt.Sprintf("t%d", i), i))
	}
	if c.Strangers {
		stranger := c.connection("strangers", to)
		stranger.Remote, stranger.RemoteID = netip.Addr{}, sa.FQDNIdentity("stranger.example")
		list = append(list, stranger)
	}
	return list
}

func (c *ikeNodeConfig) connection(name string, i int) sa.Connection {
	here, there := c.Responder, ikeOuter(i)
	ours, theirs := ipsec.SelectorFromPrefix(ikeBehind), ipsec.SelectorFromPrefix(netip.PrefixFrom(ikeInner(i), 32))
	if c.Initiate {
		here, there, ours, theirs = there, here, theirs, ours
	}
	return sa.Connection{
		Name: name, Version: c.Version, Aggressive: c.Aggressive, Local: here, Remote: there, Initiate: c.Initiate,
		LocalID: sa.AddressIdentity(here), RemoteID: sa.AddressIdentity(there), PSK: []byte(c.PSK),
		Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
			ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(c.Group),
		}}},
		Lifetime: 24 * time.Hour, DPD: sa.DPD{Interval: time.Hour, Timeout: 15 * time.Second},
		Children: []sa.Child{{
			Name: "net", ReqID: uint32(i + 1),
			Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
				ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.ESN(false),
			}}},
			Local: []ipsec.TrafficSelector{ours}, Remote: []ipsec.TrafficSelector{theirs},
			Lifetime: ipsec.Lifetime{Hard: 24 * time.Hour}, ReplayWindow: 1024,
		}},
	}
}

// newIKENodeCommand is what `vpnbench ike` runs in each namespace. It prints
// "ready", and does its part when SIGUSR1 comes: an initiator sets all tunnels up
// and prints "up" with the seconds that took; a responder gives back the memory
// that it has no use for and prints "collected" with the count of datagrams that
// its key exchange has dropped.
func newIKENodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "ike-node FILE",
		Short:  "one end of many tunnels",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := readConfig[ikeNodeConfig](args[0])
			if err != nil {
				return err
			}
			return c.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// ikeNode is a running end.
type ikeNode struct {
	*ikeNodeConfig
	servers []*ike.Server
	engine  *dataplane.Engine
	out     io.Writer
}

func (c *ikeNodeConfig) run(ctx context.Context, out, logs io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	mux := udp.New(udp.Options{Logger: log, NoRawESP: c.Initiate})
	defer func() { err = errors.Join(err, mux.Close()) }()
	engine, err := dataplane.New(dataplane.Options{Mux: mux, Logger: log, Name: nodeInterface})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()

	n := &ikeNode{ikeNodeConfig: c, engine: engine, out: out}
	count, addresses := 1, []netip.Addr{c.Responder}
	if c.Initiate {
		count, addresses = (c.Tunnels+serverSize-1)/serverSize, nil
		for i := range c.Tunnels {
			addresses = append(addresses, ikeOuter(i))
		}
	}
	byAddress := map[netip.Addr]*ike.Server{}
	for range count {
		n.servers = append(n.servers, ike.NewServer(ike.Options{Transport: mux, Backend: engine, Logger: log}))
	}
	for i, a := range addresses {
		byAddress[a] = n.servers[i/serverSize]
	}
	mux.OnIKE(func(local, remote netip.AddrPort, datagram []byte) {
		byAddress[local.Addr()].Deliver(local, remote, datagram)
	})
	if err := mux.SetAddresses(addresses); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)

	below, stop := context.WithCancel(context.WithoutCancel(ctx)) // the servers say goodbye first
	var dataPlane errgroup.Group
	dataPlane.Go(func() error { return engine.Run(below) })
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range n.servers {
		group.Go(func() error { return s.Run(ctx) })
	}
	group.Go(func() error { return n.work(ctx, signals) })
	err = group.Wait()
	stop()
	return errors.Join(err, dataPlane.Wait())
}

// work does what the signals ask for.
func (n *ikeNode) work(ctx context.Context, signals <-chan os.Signal) error {
	if !n.Initiate {
		if err := n.servers[0].Apply(n.connections(0, n.Tunnels)); err != nil {
			return err
		}
		go drain(ctx, n.servers[0])
	}
	if _, err := fmt.Fprintln(n.out, "ready"); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
		}
		if n.Initiate {
			if err := n.initiate(ctx); err != nil {
				return err
			}
			continue
		}
		for range 3 { // a stack that is little used shrinks by half each time
			debug.FreeOSMemory()
		}
		dropped := uint64(0)
		for _, count := range n.servers[0].DropCounts() {
			dropped += count
		}
		if _, err := fmt.Fprintln(n.out, "collected", dropped); err != nil {
			return err
		}
	}
}

// drain takes the events that nobody wants.
func drain(ctx context.Context, s *ike.Server) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Events():
		}
	}
}

// initiate sets all tunnels up and waits until they stand.
func (n *ikeNode) initiate(ctx context.Context) error {
	begin := time.Now()
	var up sync.WaitGroup
	up.Add(n.Tunnels)
	for i, s := range n.servers {
		list := n.connections(i*serverSize, min((i+1)*serverSize, n.Tunnels))
		if err := s.Apply(list); err != nil {
			return err
		}
		go func() {
			waiting := map[string]bool{}
			for _, c := range list {
				waiting[c.Name] = true
			}
			for {
				select {
				case <-ctx.Done():
					return
				case e := <-s.Events():
					if e.Kind == sa.ChildUp && waiting[e.Connection] {
						delete(waiting, e.Connection)
						up.Done()
					}
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { up.Wait(); close(done) }()
	select {
	case <-ctx.Done():
		return nil
	case <-done:
	}
	_, err := fmt.Fprintf(n.out, "up %.3f\n", time.Since(begin).Seconds())
	return err
}

// ikeGroups are the groups that `vpnbench ike` knows, by strongSwan's names.
var ikeGroups = map[string]uint16{
	"modp2048": ipsec.GroupMODP2048, "modp3072": ipsec.GroupMODP3072, "ecp256": ipsec.GroupECP256,
	"ecp384": ipsec.GroupECP384, "curve25519": ipsec.GroupCurve25519,
}

func ikeGroupNames() []string {
	var names []string
	for name := range ikeGroups {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
