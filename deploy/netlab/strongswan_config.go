package netlab

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// SwanConnection is one connection of strongSwan's configuration. The zero
// value of an optional field means strongSwan's default.
type SwanConnection struct {
	Name              string
	Local, Remote     netip.Addr // the zero Addr: any
	LocalID, RemoteID string     // empty: the address
	PSK               string

	// PPK is a post-quantum pre-shared key, and PPKID its name; empty: none.
	PPK, PPKID  string
	PPKRequired bool

	// V1 is for IKEv1, else it is IKEv2; Aggressive for its aggressive mode.
	V1, Aggressive bool

	Proposal    string // of the IKE SA, such as "aes128-sha256-modp3072"
	ESPProposal string
	Children    []SwanChild

	// Initiate starts the connection when it is loaded, and again when it
	// comes down.
	Initiate bool

	// ReauthTime is the rekey time of an ISAKMP SA in IKEv1.
	RekeyTime, ReauthTime, ChildRekeyTime time.Duration
	DPD                                   time.Duration

	// Unique is what becomes of other IKE SAs of the same peer: "no", "keep",
	// "replace", "never".
	Unique string
	// OverTime is how long an SA goes on after its rekey is due.
	OverTime time.Duration
	Mobike   bool
	// NoFragmentation leaves large messages to IP (RFC 7383 is not offered).
	NoFragmentation bool
	// Childless is "allow", "prefer", "force" or "never".
	Childless string
}

// SwanChild is one CHILD_SA configuration.
type SwanChild struct {
	Name          string
	Local, Remote []netip.Prefix
	// Mark is that of the child's policies and of the packets they are for, as
	// a VTI device of this key has it; zero is none.
	Mark uint32
}

// SwanConfig renders a swanctl.conf.
func SwanConfig(connections ...SwanConnection) string {
	var b strings.Builder
	b.WriteString("connections {\n")
	for _, c := range connections {
		version := 2
		if c.V1 {
			version = 1
		}
		fmt.Fprintf(&b, "  %s {\n    version = %d\n", c.Name, version)
		set := func(key string, value any, given bool) {
			if given {
				fmt.Fprintf(&b, "    %s = %v\n", key, value)
			}
		}
		set("mobike", "no", !c.Mobike)
		set("childless", c.Childless, c.Childless != "")
		set("unique", c.Unique, c.Unique != "")
		set("aggressive", "yes", c.Aggressive)
		set("fragmentation", "no", c.NoFragmentation)
		set("local_addrs", c.Local, c.Local.IsValid())
		set("remote_addrs", c.Remote, c.Remote.IsValid())
		set("proposals", c.Proposal, c.Proposal != "")
		set("rekey_time", seconds(c.RekeyTime), c.RekeyTime > 0)
		set("reauth_time", seconds(c.ReauthTime), c.ReauthTime > 0)
		over := c.OverTime
		if over == 0 && c.ReauthTime > 0 {
			over = 5 * time.Second // the default, a tenth, rounds to nothing
		}
		set("over_time", seconds(over), over > 0)
		set("dpd_delay", seconds(c.DPD), c.DPD > 0)
		set("keyingtries", 0, c.Initiate)
		set("ppk_id", c.PPKID, c.PPKID != "")
		set("ppk_required", "yes", c.PPKRequired)
		for _, side := range []struct{ name, id string }{{"local", c.LocalID}, {"remote", c.RemoteID}} {
			fmt.Fprintf(&b, "    %s {\n      auth = psk\n", side.name)
			if side.id != "" {
				fmt.Fprintf(&b, "      id = %q\n", side.id)
			}
			b.WriteString("    }\n")
		}
		b.WriteString("    children {\n")
		for _, child := range c.Children {
			fmt.Fprintf(&b, "      %s {\n        mode = tunnel\n", child.Name)
			fmt.Fprintf(&b, "        local_ts = %s\n        remote_ts = %s\n", prefixes(child.Local), prefixes(child.Remote))
			if child.Mark != 0 {
				fmt.Fprintf(&b, "        mark_in = %d\n        mark_out = %[1]d\n", child.Mark)
			}
			if c.ESPProposal != "" {
				fmt.Fprintf(&b, "        esp_proposals = %s\n", c.ESPProposal)
			}
			if c.ChildRekeyTime > 0 {
				// In whole seconds a short rekey time would round to the end of the life.
				life := max(c.ChildRekeyTime*11/10, c.ChildRekeyTime+3*time.Second)
				fmt.Fprintf(&b, "        rekey_time = %s\n        life_time = %s\n        rand_time = 1s\n", seconds(c.ChildRekeyTime), seconds(life))
			}
			if c.Initiate {
				b.WriteString("        start_action = start\n        close_action = start\n        dpd_action = restart\n")
			}
			b.WriteString("      }\n")
		}
		b.WriteString("    }\n  }\n")
	}
	b.WriteString("}\nsecrets {\n")
	for _, c := range connections {
		fmt.Fprintf(&b, "  ike-%s {\n    secret = %q\n", c.Name, c.PSK)
		if id := cmp.Or(c.LocalID, addressOrEmpty(c.Local)); id != "" {
			fmt.Fprintf(&b, "    id-local = %q\n", id)
		}
		if id := cmp.Or(c.RemoteID, addressOrEmpty(c.Remote)); id != "" {
			fmt.Fprintf(&b, "    id-remote = %q\n", id)
		}
		b.WriteString("  }\n")
		if c.PPKID != "" {
			fmt.Fprintf(&b, "  ppk-%s {\n    secret = %q\n    id = %q\n  }\n", c.Name, c.PPK, c.PPKID)
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// seconds writes a time the way swanctl reads it, which knows one unit a value.
func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

func prefixes(list []netip.Prefix) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}

func addressOrEmpty(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
