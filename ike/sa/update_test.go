package sa

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/vpngw/vpngw/ipsec"
)

// childEdit is a change of the CHILD_SAs of a connection. The traffic between
// 10.1.7.1 and 10.2.7.1 is wanted before and after.
type childEdit struct {
	name     string
	change   func(*Connection)
	children int // in the end
	v2Only   bool
}

func remove(c *Connection, i int) { c.Children = slices.Delete(slices.Clone(c.Children), i, i+1) }

var childEdits = []childEdit{
	{"lifetimes", func(c *Connection) { c.Lifetime, c.Children[0].Lifetime.Hard = time.Hour, time.Hour }, 2, false},
	{"algorithm", func(c *Connection) {
		c.Children[0].Proposals = []ipsec.Proposal{{Protocol: ipsec.ProtocolESP, Transforms: []ipsec.Transform{
			ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128), ipsec.Group(ipsec.GroupECP256),
		}}}
	}, 2, false},
	{"PFS group", func(c *Connection) { c.Children[0].Proposals = []ipsec.Proposal{espProposal(ipsec.GroupECP384)} }, 2, false},
	{"no PFS", func(c *Connection) { c.Children[0].Proposals = []ipsec.Proposal{espProposal()} }, 2, false},
	{"wider selectors", func(c *Connection) { c.Children[0].Local = selectors("10.0.0.0/15") }, 2, true},
	{"narrower selectors", func(c *Connection) { c.Children[0].Local = selectors("10.1.7.0/24") }, 2, true},
	{"one more selector", func(c *Connection) { c.Children[0].Remote = selectors("10.2.0.0/16", "10.9.0.0/16") }, 2, true},
	{"the second child goes", func(c *Connection) { remove(c, 1) }, 1, false},
	{"a third child comes", func(c *Connection) {
		third := c.Children[0]
		third.Name, third.ReqID, third.Remote = "third", 3, selectors("10.9.0.0/16")
		c.Children = append(c.Children, third)
	}, 3, false},
	{"another child in its place, wider", func(c *Connection) {
		c.Children[0].Name, c.Children[0].ReqID, c.Children[0].Local = "wide", 4, selectors("10.0.0.0/15")
	}, 2, false},
	{"another child in its place, narrower", func(c *Connection) {
		c.Children[0].Name, c.Children[0].ReqID, c.Children[0].Remote = "narrow", 5, selectors("10.2.7.0/24")
	}, 2, false},
}

// TestUpdateUnderTraffic has each end change first, with the other one following
// after some time or at once: at no moment is there no SA for what is wanted before
// and after.
func TestUpdateUnderTraffic(t *testing.T) {
	for _, version := range []uint8{1, 2} {
		for _, edit := range childEdits {
			if edit.v2Only && version == 1 {
				continue
			}
			for _, order := range []string{"a, later b", "b, later a", "both"} {
				t.Run(string('0'+rune(version))+"/"+edit.name+"/"+order, func(t *testing.T) {
					l := newLab(t, 1)
					base := func() *Connection {
						c := connA()
						if version == 1 {
							c = connV1()
						}
						second(c)
						return c
					}
					l.a.conns, l.b.conns = []*Connection{base()}, []*Connection{mirror(base(), "ba")}
					l.establish()
					l.flow = [2]netip.Addr{netip.MustParseAddr("10.1.7.1"), netip.MustParseAddr("10.2.7.1")}
					next := base()
					edit.change(next)
					ends := map[byte]func(){
						'a': func() { l.say("a changes"); l.a.conns[0] = next; l.a.do(Update{next}) },
						'b': func() { l.say("b changes"); c := mirror(next, "ba"); l.b.conns[0] = c; l.b.do(Update{c}) },
					}
					switch order {
					case "both":
						ends['a']()
						ends['b']()
					case "a, later b":
						ends['a']()
						l.pass(20 * time.Second)
						ends['b']()
					case "b, later a":
						ends['b']()
						l.pass(20 * time.Second)
						ends['a']()
					}
					l.pass(5 * time.Minute)
					l.settled(edit.children)
					for _, e := range []*end{l.a, l.b} {
						for _, c := range e.peer().Status().Children {
							if c.Outdated {
								t.Errorf("%s: child %s is not as configured", e.name, c.Name)
							}
						}
					}
				})
			}
		}
	}
}

// ikeEdits are changes of what is settled when an IKE SA is set up.
var ikeEdits = map[string]func(*Connection){
	"pre-shared key": func(c *Connection) { c.PSK = []byte("another horse") },
	"proposal":       func(c *Connection) { c.Proposals = []ipsec.Proposal{proposalV1(ipsec.GroupECP384)} },
	"our identity":   func(c *Connection) { c.LocalID = FQDNIdentity("a.example") },
	"their identity": func(c *Connection) { c.RemoteID = FQDNIdentity("b.example") },
	"mode":           func(c *Connection) { c.Aggressive = !c.Aggressive },
}

// TestV1RenewUnderTraffic: in IKEv1 a new ISAKMP SA follows, while the children go
// on. The one that stands stays until the peer has changed, too.
func TestV1RenewUnderTraffic(t *testing.T) {
	for name, change := range ikeEdits {
		for _, order := range []string{"ab", "ba"} {
			t.Run(name+"/"+order, func(t *testing.T) {
				l := newLab(t, 1)
				l.useV1(aggressive)
				if name == "mode" {
					l.useV1()
				}
				l.establish()
				spi := l.a.peer().Status().IKE[0].InitiatorSPI
				next := connV1(aggressive)
				if name == "mode" {
					next = connV1()
				}
				change(next)
				for _, who := range order {
					if who == 'a' {
						l.a.conns[0] = next
						l.a.perform(l.a.serving().Do(l.now, Update{next}))
					} else {
						c := mirror(next, "ba")
						l.b.conns[0] = c
						l.b.perform(l.b.serving().Do(l.now, Update{c}))
					}
					l.run()
					if who == rune(order[0]) {
						if st := l.end(who).serving().Status(); !st.IKE[0].Outdated {
							t.Errorf("the ISAKMP SA that stands is not told to be outdated: %+v", st.IKE)
						}
					}
					l.pass(30 * time.Second)
				}
				l.pass(10 * time.Minute)
				l.settled(1)
				for _, e := range []*end{l.a, l.b} {
					st := e.peer().Status()
					if st.IKE[0].InitiatorSPI == spi || st.IKE[0].Outdated {
						t.Errorf("%s: the ISAKMP SA is the old one: %+v", e.name, st.IKE[0])
					}
					if e.count(ChildDown)+e.count(IKEDown) > 0 {
						t.Errorf("%s: something went down\n%s", e.name, l.transcript.String())
					}
				}
			})
		}
	}
}

// serving returns the machine that has an IKE SA; attempts that fail have none.
func (e *end) serving() peer {
	e.lab.t.Helper()
	for _, m := range e.machines {
		if m.Established() {
			return m
		}
	}
	e.lab.t.Fatalf("%s has no IKE SA:\n%s", e.name, e.lab.transcript.String())
	return nil
}

func (l *lab) end(name rune) *end {
	if name == 'a' {
		return l.a
	}
	return l.b
}

// TestEffectOf tells what each kind of change costs.
func TestEffectOf(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Connection)
		want   Effect
	}{
		"nothing":     {func(*Connection) {}, EffectNone},
		"DPD":         {func(c *Connection) { c.DPD.Interval = time.Minute }, EffectNone},
		"lifetimes":   {func(c *Connection) { c.Lifetime, c.Children[0].Lifetime.Hard = 1, 1 }, EffectNone},
		"window":      {func(c *Connection) { c.Children[0].ReplayWindow = 64 }, EffectNone},
		"algorithm":   {func(c *Connection) { c.Children[0].Proposals = []ipsec.Proposal{espProposal()} }, EffectChild},
		"selectors":   {func(c *Connection) { c.Children[0].Remote = selectors("10.7.0.0/16") }, EffectChild},
		"child":       {second, EffectChild},
		"key":         {func(c *Connection) { c.PSK = []byte("x") }, EffectIKE},
		"group":       {func(c *Connection) { c.Proposals = []ipsec.Proposal{ikeProposal(19)} }, EffectIKE},
		"identity":    {func(c *Connection) { c.LocalID = FQDNIdentity("x") }, EffectIKE},
		"version":     {func(c *Connection) { c.Version = 1 }, EffectIKE},
		"mode":        {aggressive, EffectIKE},
		"peer":        {func(c *Connection) { c.Remote = netip.MustParseAddr("203.0.113.9") }, EffectDrop},
		"our address": {func(c *Connection) { c.Local = netip.MustParseAddr("203.0.113.9") }, EffectDrop},
	} {
		next := connA()
		tc.change(next)
		if got := connA().EffectOf(next); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestEveryFieldHasAnEffect finds a field of a connection or a child whose change
// EffectOf would overlook. Those that are named need no other SA.
func TestEveryFieldHasAnEffect(t *testing.T) {
	free := []string{"Initiate", "Lifetime", "AuthLifetime", "DPD", "Claimant", "Reservation", "Childless", "RedirectTo", "ReplayWindow"}
	base := func() *Connection {
		c := connA()
		c.PPK, c.GM = &PPK{ID: "id", Key: []byte("key")}, &GM{}
		return c
	}
	try := func(name string, field func(*Connection) reflect.Value, least Effect) {
		t.Helper()
		next := base()
		v := field(next)
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Uint8, reflect.Uint32:
			v.SetUint(v.Uint() + 1)
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		default:
			v.SetZero()
		}
		if got := base().EffectOf(next); got < least && !slices.Contains(free, name) {
			t.Errorf("a change of %s has the effect %d, want %d at least", name, got, least)
		}
	}
	for i := range reflect.TypeFor[Connection]().NumField() {
		name := reflect.TypeFor[Connection]().Field(i).Name
		if name != "Children" {
			try(name, func(c *Connection) reflect.Value { return reflect.ValueOf(c).Elem().Field(i) }, EffectIKE)
		}
	}
	for i := range reflect.TypeFor[Child]().NumField() {
		name := reflect.TypeFor[Child]().Field(i).Name
		try(name, func(c *Connection) reflect.Value { return reflect.ValueOf(&c.Children[0]).Elem().Field(i) }, EffectChild)
	}
}

// TestV1EncapsulationChanges: the ESP of children that stand goes in UDP, or no longer does,
// when one end's configuration changes, also where its next ISAKMP SA looks as if it had
// crossed that of the peer.
func TestV1EncapsulationChanges(t *testing.T) {
	for _, aggressively := range []bool{false, true} {
		for _, forced := range []bool{true, false} {
			for _, side := range []string{"initiator", "responder"} {
				t.Run(fmt.Sprintf("aggressive=%t/forced=%t/%s", aggressively, forced, side), func(t *testing.T) {
					base := func(force bool) func(c *Connection) {
						return func(c *Connection) { c.Aggressive, c.ForceEncap, c.RequireEncap = aggressively, force, force }
					}
					l := newLab(t, 1)
					l.a.conns, l.b.conns = []*Connection{connV1(base(false))}, []*Connection{mirror(connV1(base(false)), "ba")}
					e, next := l.a, connV1(base(forced))
					if side == "responder" {
						e, next = l.b, mirror(next, "ba")
						next.Initiate = true
					}
					before := *next
					base(!forced)(&before)
					e.conns = []*Connection{&before}
					l.establish()
					e.conns = []*Connection{next}
					e.perform(e.serving().Do(l.now, Update{next}))
					l.pass(5 * time.Minute)
					l.settled(1)
					for _, e := range []*end{l.a, l.b} {
						st := e.peer().Status()
						if st.IKE[0].Encap != forced {
							t.Errorf("%s: the ISAKMP SA: %+v", e.name, st.IKE[0])
						}
						for _, sa := range e.sas {
							if sa.Encap != forced {
								t.Errorf("%s: %s of the child in UDP: %t", e.name, sa.ID(), sa.Encap)
							}
						}
						if e.count(ChildDown)+e.count(IKEDown) > 0 {
							t.Errorf("%s: something went down\n%s", e.name, l.transcript.String())
						}
					}
				})
			}
		}
	}
}
