package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ipsec"
)

const (
	nodeInterface = "vpngw0"
	gcmKeyLen     = 16 + 4 // octets of an AES-128-GCM key and its salt
)

// nodeConfig is one end of a tunnel with static SAs.
type nodeConfig struct {
	Local, Remote             netip.Addr
	Encap                     bool
	LocalPrefix, RemotePrefix netip.Prefix
	OutboundSPI, InboundSPI   uint32
	OutboundKey, InboundKey   []byte
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
		Short:  "one end of a tunnel with static SAs",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := readConfig[nodeConfig](args[0])
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			mux := udp.New(udp.Options{Logger: log})
			defer func() { err = errors.Join(err, mux.Close()) }()
			engine, err := dataplane.New(dataplane.Options{Mux: mux, Logger: log, Name: nodeInterface})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, engine.Close()) }()
			if err := mux.SetAddresses([]netip.Addr{c.Local}); err != nil {
				return err
			}
			if err := c.install(engine); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), "ready"); err != nil {
				return err
			}
			err = engine.Run(cmd.Context())
			log.Info("stopped", "drops", engine.Drops())
			return err
		},
	}
}

// install adds the SAs and the policy.
func (c *nodeConfig) install(engine *dataplane.Engine) error {
	local := ipsec.SelectorFromPrefix(c.LocalPrefix)
	remote := ipsec.SelectorFromPrefix(c.RemotePrefix)
	sa := ipsec.SA{
		SPI: ipsec.SPI(c.OutboundSPI), Direction: ipsec.Out, Src: c.Local, Dst: c.Remote,
		Encap: c.Encap, SrcPort: udp.PortNATT, DstPort: udp.PortNATT, ReqID: 1, ESN: true,
		Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: c.OutboundKey,
		Local: []ipsec.TrafficSelector{local}, Remote: []ipsec.TrafficSelector{remote},
	}
	if err := engine.AddSA(sa); err != nil {
		return err
	}
	sa.SPI, sa.Direction, sa.Src, sa.Dst = ipsec.SPI(c.InboundSPI), ipsec.In, c.Remote, c.Local
	sa.EncryptionKey = c.InboundKey
	if err := engine.AddSA(sa); err != nil {
		return err
	}
	return engine.AddPolicy(ipsec.Policy{
		PolicyID: ipsec.PolicyID{
			Direction: ipsec.Out, Local: local, Remote: remote, Priority: ipsec.PriorityProtect,
		},
		Action: ipsec.Protect, ReqID: 1,
	})
}
