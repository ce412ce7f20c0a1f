package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/sslvpn"
)

// p2cNode is what one of our own processes of `vpnbench p2c` works with.
type p2cNode struct {
	Server      netip.AddrPort
	UDP         bool
	CA          []byte // PEM
	Certificate []byte // PEM of the chain
	Key         []byte // PEM

	// Of the server.
	Device string
	Pool   netip.Prefix
	Routes []netip.Prefix

	// Of the clients.
	Sessions int
	Parallel int    // handshakes at the same time
	Devices  int    // how many sessions have one; the others carry nothing
	Prefix   string // of the devices' names
	// Again has sessions that cannot connect try again, after a second each.
	Again bool
}

// newP2CNodeCommand is what `vpnbench p2c` runs in a namespace.
func newP2CNodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "p2c-node server|clients FILE",
		Short:  "a server or clients of the comparison",
		Args:   cobra.ExactArgs(2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := readConfig[p2cNode](args[1])
			if err != nil {
				return err
			}
			run := map[string]func(*cobra.Command) error{"server": n.serve, "clients": n.connect}[args[0]]
			if run == nil {
				return fmt.Errorf("role %q: must be server or clients", args[0])
			}
			return run(cmd)
		},
	}
}

func (n *p2cNode) certificate() (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(n.Certificate, n.Key)
	return &c, err
}

func (n *p2cNode) roots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(n.CA) {
		return nil, errors.New("the CA is no PEM certificate")
	}
	return pool, nil
}

// serve runs the server until the context ends.
func (n *p2cNode) serve(cmd *cobra.Command) error {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	cert, err := n.certificate()
	if err != nil {
		return err
	}
	ca, err := parseCertificate(n.CA)
	if err != nil {
		return err
	}
	e := sslvpn.Endpoint{
		ID: "bench", Device: n.Device, Cipher: sslvpn.AES128GCM, Auth: sslvpn.AuthCertificate,
		Certificate: cert, ClientCAs: []*x509.Certificate{ca}, Pool: n.Pool, Routes: n.Routes, MaxSessions: 1 << 16,
	}
	if n.UDP {
		e.UDP = []netip.AddrPort{n.Server}
	} else {
		e.TCP = []netip.AddrPort{n.Server}
	}
	s := sslvpn.New(sslvpn.Options{Logger: log, Limits: sslvpn.Limits{HalfOpenTotal: 1 << 16, HalfOpenAddress: 1 << 16, ResetsPerSecond: 1 << 20}, OpenDevice: n.openServerDevice})
	ctx := cmd.Context()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for len(s.Snapshot()) == 0 {
		if err := s.Apply(sslvpn.Config{Endpoints: []sslvpn.Endpoint{e}}); err != nil {
			return err
		}
		<-ticker.C
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), "ready"); err != nil {
		return err
	}
	<-ctx.Done()
	log.Info("stopped", "drops", fmt.Sprint(s.Snapshot()[0].Drops))
	return <-done
}

// openServerDevice makes the server's device, with the pool behind it.
func (n *p2cNode) openServerDevice(name string, queues, mtu int) (tun.Device, error) {
	dev, err := tun.Open(name, queues, mtu)
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.Pool.Addr().Next(), 32))})
	}
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(n.Pool)})
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// connect connects all sessions, says how long that took, and carries their
// traffic until the context ends or one of them does.
func (n *p2cNode) connect(cmd *cobra.Command) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	cert, err := n.certificate()
	if err != nil {
		return err
	}
	roots, err := n.roots()
	if err != nil {
		return err
	}
	options := sslvpn.ConnectOptions{
		Remote: n.Server, UDP: n.UDP, RootCAs: roots, Certificate: cert,
		Ciphers: []sslvpn.Cipher{sslvpn.AES128GCM},
	}
	begun := time.Now()
	var connecting, running sync.WaitGroup
	turns := make(chan struct{}, max(n.Parallel, 1))
	for i := range n.Sessions {
		connecting.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			c, err := n.dial(ctx, options)
			if err != nil {
				cancel(fmt.Errorf("session %d: %w", i, err))
				return
			}
			running.Go(func() {
				if err := n.run(ctx, c, i); err != nil {
					cancel(fmt.Errorf("session %d: %w", i, err))
				}
			})
		})
	}
	connecting.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "connected %d in %.3f s\nready\n", n.Sessions, time.Since(begun).Seconds()); err != nil {
		return err
	}
	<-ctx.Done()
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// dial connects one session.
func (n *p2cNode) dial(ctx context.Context, options sslvpn.ConnectOptions) (*sslvpn.Connection, error) {
	for {
		c, err := sslvpn.Connect(ctx, options)
		if err == nil || !n.Again {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// run carries the traffic of one session.
func (n *p2cNode) run(ctx context.Context, c *sslvpn.Connection, i int) error {
	if i >= n.Devices {
		return c.Run(ctx, nil)
	}
	name := fmt.Sprintf("%s%d", n.Prefix, i)
	queues := 1
	if n.Devices == 1 {
		queues = runtime.GOMAXPROCS(0)
	}
	dev, err := tun.Open(name, queues, 1500)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(c.Settings().Local, 32))})
	}
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	return c.Run(ctx, dev)
}
