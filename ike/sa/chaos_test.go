package sa

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestChaos has both ends rekey and probe at random moments over a network that
// repeats, reorders, delays and loses. Whatever happens on the way, no packet
// of a child is lost, and in the end there is one of everything.
func TestChaos(t *testing.T) {
	for name, c := range map[string]chaos{
		"long":   {first: 160, seeds: 50, rounds: 1, steps: 150, commands: 40},
		"rounds": {first: 1, seeds: 20, rounds: 6, steps: 200, commands: 4},
		"hybrid": {first: 1, seeds: 40, rounds: 2, steps: 200, commands: 30, edit: hybrid},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := c.first; seed < c.first+c.seeds; seed++ {
				c.run(t, seed)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// chaos is a kind of run: in each round, both ends do some commands each among
// a number of steps, and come to rest.
type chaos struct {
	first, seeds            uint64
	rounds, steps, commands int
	edit                    func(*Connection)
}

// maxLosses is how often one datagram may be lost: less than would end an SA.
const maxLosses = 2

func (c chaos) run(t *testing.T, seed uint64) {
	l := newLab(t, seed)
	a := connA()
	if c.edit != nil {
		c.edit(a)
	}
	second(a)
	b := mirror(a, "ba")
	b.Initiate = seed%2 == 0
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{b}
	l.establish()
	r := rand.New(rand.NewPCG(seed, 9))
	for range c.rounds {
		lost := map[string]int{}
		for range c.steps {
			c.step(l, r, lost)
			if t.Failed() || len(l.a.machines) != 1 || len(l.b.machines) != 1 {
				t.Fatalf("seed %d: %d and %d machines\n%s", seed, len(l.a.machines), len(l.b.machines), l.transcript.String())
			}
		}
		l.pass(2 * time.Minute)
		l.quiet()
		l.transcript.Reset()
	}
}

func (c chaos) step(l *lab, r *rand.Rand, lost map[string]int) {
	if r.IntN(c.steps) < c.commands {
		e := []*end{l.a, l.b}[r.IntN(2)]
		switch k := r.IntN(5); k {
		case 0:
			e.do(RekeyIKE{})
		case 1:
			e.do(Probe{})
		default:
			e.do(RekeyChild{ReqID: e.conns[0].Children[k%2].ReqID})
		}
		return
	}
	if r.IntN(10) == 0 {
		l.now = l.now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		l.tick()
		return
	}
	if len(l.wire) == 0 {
		return
	}
	i := r.IntN(len(l.wire))
	switch id := string(l.wire[i].d.Bytes); r.IntN(10) {
	case 0:
		l.wire = append(l.wire, l.wire[i])
	case 1:
		if lost[id]++; lost[id] <= maxLosses {
			l.drop(i)
		}
	default:
		l.deliver(i)
	}
}
