package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control/store/etcd"
)

// reachTimeout is how long the doctor waits for a cluster.
const reachTimeout = 5 * time.Second

// reachEtcd tells why a cluster cannot be used. Looking makes its schema, if it
// is empty, as a start would.
func reachEtcd(o etcd.Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), reachTimeout)
	defer cancel()
	o.Timeout = reachTimeout
	cluster, err := etcd.Open(ctx, o)
	if err != nil {
		return err
	}
	return cluster.Close()
}

// cluster looks at what a node of a fleet needs besides.
func (h *host) cluster(c *config) []finding {
	at := strings.Join(c.Store.Endpoints, ", ")
	f := finding{verdictOK, "etcd", at + " answers", ""}
	if err := h.reach(c.Store.options()); err != nil {
		f = finding{verdictFail, f.Subject, err.Error(), "store: {endpoints: […]}   # and ca_file, cert_file, username as the cluster wants them"}
	}
	key := finding{verdictOK, "sealing key", c.sealingKeyPath() + " is there", ""}
	if _, err := os.Stat(h.root + c.sealingKeyPath()); err != nil {
		key = finding{
			verdictWarn, key.Subject, err.Error(),
			"copy the key file of another node there; the first node of a fleet makes one",
		}
	}
	api := finding{verdictOK, "API for other nodes", c.apiURL(), ""}
	if c.apiURL() == "" {
		api = finding{
			verdictWarn, api.Subject, fmt.Sprintf("they cannot reach %s: what only this node knows they cannot tell", c.API.Listen),
			"node: {api_url: https://ADDRESS:8443}   # or api.listen with an address of the host",
		}
	}
	return []finding{f, key, api}
}

// floating looks at the interface that an address is set on when this node comes
// to serve it.
func (h *host) floating(eip string, a netip.Addr, device string, addresses map[netip.Addr]net.Interface) finding {
	for _, link := range addresses {
		if link.Name == device {
			return finding{verdictOK, "address " + a.String(), "floats (EIP " + eip + "); for " + device, ""}
		}
	}
	return finding{
		verdictFail, "address " + a.String(), fmt.Sprintf("floats (EIP %s), and no interface %s of this host has an address", eip, device),
		"inventory: {eips: [{interface: …}]}   # the interface towards the peers",
	}
}
