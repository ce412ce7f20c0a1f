package main

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/wire"
)

// drainConfig says where site-to-cloud peers go when the node stops, or is taken
// out of service.
type drainConfig struct {
	Redirect []redirectConfig `yaml:"redirect"`
	Wait     time.Duration    `yaml:"wait"`
	Active   bool             `yaml:"active"`
}

// redirectConfig sends the peers of one address, or of all that have no rule of
// their own, to another gateway.
type redirectConfig struct {
	From netip.Addr `yaml:"from"`
	To   string     `yaml:"to"`
}

// Bounds of drain.wait.
const defaultDrainWait, maxDrainWait = 10 * time.Second, 10 * time.Minute

// fqdn is a name of a gateway, of at least two labels.
var fqdn = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// gateway returns who a rule sends to.
func (r *redirectConfig) gateway() (wire.GatewayIdentity, error) {
	if a, err := netip.ParseAddr(r.To); err == nil {
		if a = a.Unmap(); a.IsUnspecified() || a.Zone() != "" {
			return wire.GatewayIdentity{}, fmt.Errorf("%q is no address of a gateway", r.To)
		}
		return wire.GatewayIdentity{Addr: a}, nil
	}
	if len(r.To) > 253 || !fqdn.MatchString(r.To) {
		return wire.GatewayIdentity{}, fmt.Errorf("%q is neither an address nor a name", r.To)
	}
	return wire.GatewayIdentity{FQDN: r.To}, nil
}

func (c *config) checkDrain(p *problems) {
	if w := c.Drain.Wait; w < 0 || w > maxDrainWait {
		p.add("drain.wait", "%s is not in 0s-%s", w, maxDrainWait)
	}
	if c.Drain.Active && len(c.Drain.Redirect) == 0 {
		p.add("drain.active", "needs drain.redirect: without it nobody is sent elsewhere")
	}
	seen := make(map[netip.Addr]bool)
	for i := range c.Drain.Redirect {
		r := &c.Drain.Redirect[i]
		key := fmt.Sprintf("drain.redirect[%d].", i)
		if _, err := r.gateway(); err != nil {
			p.add(key+"to", "%v", err)
		}
		if r.From.IsValid() && r.From.String() == r.To {
			p.add(key+"to", "is drain.redirect[%d].from", i)
		}
		if seen[r.From] {
			p.add(key+"from", "occurs twice; only one rule may have none")
		}
		seen[r.From] = true
	}
}

// redirection returns where the peers of each address go. An EIP behind a NAT is
// known to the key exchange by its private address.
func (d *drainConfig) redirection(inv *control.Inventory) ike.Redirection {
	hosts := make(map[netip.Addr]netip.Addr, len(inv.EIPs))
	for i := range inv.EIPs {
		hosts[inv.EIPs[i].Address] = inv.EIPs[i].HostAddress()
	}
	rules := make(map[netip.Addr]wire.GatewayIdentity, len(d.Redirect))
	for i := range d.Redirect {
		from := d.Redirect[i].From
		if host, ok := hosts[from]; ok {
			from = host
		}
		rules[from], _ = d.Redirect[i].gateway() // loadConfig has checked it
	}
	return func(local netip.Addr) (wire.GatewayIdentity, bool) {
		to, ok := rules[local]
		if !ok {
			to, ok = rules[netip.Addr{}]
		}
		return to, ok && to.Addr != local
	}
}

// setDrain sends peers elsewhere, or no longer, as the configuration has it.
func (d *daemon) setDrain(c *config) {
	d.drain.Store(c)
	if c.Drain.Active {
		d.ike.Redirect(c.Drain.redirection(&c.Inventory))
		d.log.Info("peers that can be sent to other gateways are", "rules", len(c.Drain.Redirect))
	} else {
		d.ike.Redirect(nil)
	}
}

// sendAway sends peers elsewhere before the node stops, and waits for those that
// go, but not for long.
func (d *daemon) sendAway() {
	c := d.drain.Load()
	if len(c.Drain.Redirect) == 0 {
		return
	}
	d.ike.Redirect(c.Drain.redirection(&c.Inventory))
	ctx, cancel := context.WithTimeout(context.Background(), c.Drain.Wait)
	defer cancel()
	if left := d.ike.Redirected(ctx); left > 0 {
		d.log.Warn("peers were sent to other gateways and have not gone", "peers", left, "waited", c.Drain.Wait)
	}
}
