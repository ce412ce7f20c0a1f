package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

// nodeInterface is the interface of a node's only tunnel. Of many, it is the
// start of their names.
const nodeInterface = "vpngw0"

// suite is the algorithms of an ESP SA.
type suite struct {
	Encryption, Integrity    ipsec.Transform
	encryptKey, integrityKey int // octets of key material
}

// suites are known by strongSwan's names.
var suites = map[string]suite{
	"aes128gcm16": {Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), encryptKey: 16 + 4},
	"aes128-sha256": {
		Encryption: ipsec.Encryption(ipsec.EncryptionAESCBC, 128), encryptKey: 16,
		Integrity: ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), integrityKey: 32,
	},
}

// nodeConfig is one end of tunnels.
type nodeConfig struct {
	Local, Remote netip.Addr
	Encap         bool
	Suite         string // of suites
	Tunnels       []nodeTunnel
	// PSK is for a node that awaits a peer's IKEv2 for its only tunnel. Empty: the SAs
	// are static.
	PSK string
}

// nodeTunnel is one tunnel, on an interface of its own.
type nodeTunnel struct {
	Name                      string
	LocalPrefix, RemotePrefix netip.Prefix
	Outbound, Inbound         nodeSA
}

type nodeSA struct {
	SPI                         uint32
	EncryptionKey, IntegrityKey []byte
}

// readConfig reads what a measurement gives to a node.
func readConfig[T any](file string) (c T, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// newESPNodeCommand is what `vpnbench esp` runs in each namespace.
func newESPNodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "esp-node FILE",
		Short:  "one end of tunnels",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := readConfig[nodeConfig](args[0])
			if err != nil {
				return err
			}
			return c.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func (c *nodeConfig) run(ctx context.Context, out, logs io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(logs, nil))
	mux := udp.New(udp.Options{Logger: log})
	defer func() { err = errors.Join(err, mux.Close()) }()
	engine, err := dataplane.New(dataplane.Options{Mux: mux, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	if err := mux.SetAddresses([]netip.Addr{c.Local}); err != nil {
		return err
	}
	var interfaces []ipsec.Interface
	for i, t := range c.Tunnels {
		interfaces = append(interfaces, ipsec.Interface{IfID: uint32(i + 1), Name: t.Name})
	}
	if err := engine.SetInterfaces(interfaces); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if c.PSK != "" {
		server := ike.NewServer(ike.Options{Transport: mux, Backend: engine, Logger: log})
		mux.OnIKE(server.Deliver)
		if err := server.Apply([]sa.Connection{c.connection()}); err != nil {
			return err
		}
		go drain(ctx, server)
		group.Go(func() error { return server.Run(ctx) })
	} else {
		for i := range c.Tunnels {
			if err := c.install(engine, i); err != nil {
				return err
			}
		}
	}
	group.Go(func() error { return engine.Run(ctx) })
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	err = group.Wait()
	log.Info("stopped", "drops", engine.Drops())
	return err
}

// selectors returns what a tunnel carries.
func (t *nodeTunnel) selectors() (local, remote ipsec.TrafficSelector) {
	return ipsec.SelectorFromPrefix(t.LocalPrefix), ipsec.SelectorFromPrefix(t.RemotePrefix)
}

// install adds the SAs and the policy of a tunnel.
func (c *nodeConfig) install(engine *dataplane.Engine, i int) error {
	t, algorithms, id := &c.Tunnels[i], suites[c.Suite], uint32(i+1)
	local, remote := t.selectors()
	sa := ipsec.SA{
		SPI: ipsec.SPI(t.Outbound.SPI), Direction: ipsec.Out, Src: c.Local, Dst: c.Remote,
		Encap: c.Encap, SrcPort: udp.PortNATT, DstPort: udp.PortNATT, ReqID: id, IfID: id, ESN: true,
		Encryption: algorithms.Encryption, EncryptionKey: t.Outbound.EncryptionKey,
		Integrity: algorithms.Integrity, IntegrityKey: t.Outbound.IntegrityKey,
		Local: []ipsec.TrafficSelector{local}, Remote: []ipsec.TrafficSelector{remote},
	}
	if err := engine.AddSA(sa); err != nil {
		return err
	}
	sa.SPI, sa.Direction, sa.Src, sa.Dst = ipsec.SPI(t.Inbound.SPI), ipsec.In, c.Remote, c.Local
	sa.EncryptionKey, sa.IntegrityKey = t.Inbound.EncryptionKey, t.Inbound.IntegrityKey
	if err := engine.AddSA(sa); err != nil {
		return err
	}
	return engine.AddPolicy(ipsec.Policy{
		PolicyID: ipsec.PolicyID{
			Direction: ipsec.Out, Local: local, Remote: remote, Priority: ipsec.PriorityProtect, IfID: id,
		},
		Action: ipsec.Protect, ReqID: id,
	})
}

// connection is what a node with a PSK awaits.
func (c *nodeConfig) connection() sa.Connection {
	t, algorithms := &c.Tunnels[0], suites[c.Suite]
	local, remote := t.selectors()
	esp := []ipsec.Transform{algorithms.Encryption, ipsec.ESN(false)}
	if algorithms.integrityKey > 0 {
		esp = append(esp, algorithms.Integrity)
	}
	return sa.Connection{
		Name: "peer", Version: 2, Local: c.Local, Remote: c.Remote, ForceEncap: c.Encap,
		LocalID: sa.AddressIdentity(c.Local), RemoteID: sa.AddressIdentity(c.Remote), PSK: []byte(c.PSK),
		Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
			ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupECP256),
		}}},
		Lifetime: 24 * time.Hour, DPD: sa.DPD{Interval: time.Hour, Timeout: 15 * time.Second},
		Children: []sa.Child{{
			Name: "net", ReqID: 1, IfID: 1,
			Proposals: []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: esp}},
			Local:     []ipsec.TrafficSelector{local}, Remote: []ipsec.TrafficSelector{remote},
			Lifetime: ipsec.Lifetime{Hard: 24 * time.Hour}, ReplayWindow: 1024,
		}},
	}
}
