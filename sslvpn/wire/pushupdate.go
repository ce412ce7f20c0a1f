package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// changing are the options that may change while a client is connected, with what
// each says. Where one of a kind comes in a PUSH_UPDATE, it stands for all that the
// client has of that kind; "-" before a name takes all away.
var changing = []optionKind{
	{"route", func(p *Push) (values []string) {
		for _, r := range p.Routes {
			if r.Addr().Is4() {
				values = append(values, fmt.Sprintf("%s %s", r.Masked().Addr(), mask(r)))
			}
		}
		return values
	}},
	{"route-ipv6", func(p *Push) (values []string) {
		for _, r := range p.Routes {
			if r.Addr().Is6() {
				values = append(values, r.Masked().String())
			}
		}
		return values
	}},
	{"dhcp-option", func(p *Push) (values []string) {
		for _, d := range p.DNS {
			values = append(values, "DNS "+d.String())
		}
		if p.Domain != "" {
			values = append(values, "DOMAIN "+p.Domain)
		}
		return values
	}},
	{"dns", func(p *Push) (values []string) {
		if !p.DNSOption {
			return nil
		}
		if len(p.DNS) > 0 {
			first := "server 0 address"
			for _, d := range p.DNS[:min(len(p.DNS), maxDNSAddresses)] {
				first += " " + d.String()
			}
			values = append(values, first)
		}
		if p.Domain != "" {
			values = append(values, "search-domains "+p.Domain)
		}
		return values
	}},
}

// optionKind is the options of one name.
type optionKind struct {
	name   string
	values func(p *Push) []string
}

// maxDNSAddresses is how many addresses of one DNS server clients take.
const maxDNSAddresses = 8

// Update returns the PUSH_UPDATE messages that turn the settings that a client has
// into p, as far as they may change: none when nothing did. Clients announce by
// ProtoPushUpdate that they take them.
func (p *Push) Update(before *Push) []string {
	var options []string
	for _, kind := range changing {
		now := kind.values(p)
		switch {
		case slices.Equal(now, kind.values(before)):
		case len(now) == 0:
			options = append(options, "-"+kind.name)
		default:
			for _, value := range now {
				options = append(options, kind.name+" "+value)
			}
		}
	}
	if options == nil {
		return nil
	}
	return pushMessages(PushUpdate, options)
}

// PushChange collects the PUSH_UPDATE messages of one change, as a client does.
type PushChange struct {
	Push  Push // the settings, with the change so far
	found map[string]bool
}

// NewPushChange begins a change of settings, which stay as they are.
func NewPushChange(p Push) *PushChange {
	p.Routes, p.DNS, p.Flags = slices.Clone(p.Routes), slices.Clone(p.DNS), slices.Clone(p.Flags)
	return &PushChange{Push: p, found: map[string]bool{}}
}

var errUnchangeable = errors.New("cannot change while connected")

// Add takes the options of one message. It reports whether more messages of the
// change follow. An option that cannot change is an error, unless the server says
// by "?" that the client may pass it over.
func (c *PushChange) Add(message string) (more bool, err error) {
	return eachOption(message, PushUpdate, func(name string, args []string) error {
		name, remove := strings.CutPrefix(name, "-")
		name, optional := strings.CutPrefix(name, "?")
		if !slices.ContainsFunc(changing, func(k optionKind) bool { return k.name == name }) {
			if optional {
				return nil
			}
			return errUnchangeable
		}
		if remove || !c.found[name] {
			c.remove(name)
		}
		if remove {
			return nil
		}
		c.found[name] = true
		return c.Push.addOption(name, args)
	})
}

// remove takes all options of a kind away.
func (c *PushChange) remove(name string) {
	p := &c.Push
	switch name {
	case "route":
		p.Routes = slices.DeleteFunc(p.Routes, func(r netip.Prefix) bool { return r.Addr().Is4() })
	case "route-ipv6":
		p.Routes = slices.DeleteFunc(p.Routes, func(r netip.Prefix) bool { return r.Addr().Is6() })
	case "dhcp-option", "dns":
		// Both say the same: the first of either that comes is all there is.
		if !c.found["dhcp-option"] && !c.found["dns"] {
			p.DNS, p.Domain, p.DNSOption = nil, "", false
		}
	}
}
