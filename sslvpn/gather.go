package sslvpn

import "time"

// Stock clients write each packet for itself, and a server that wakes for each
// spends more on waking than on the packet; the host behind it acknowledges
// each, which costs the client as much again. So while packets of full size
// come one by one and fast, the kernel is asked to wake the reader for
// gatherOctets, and not to wait longer than gatherWait.
const (
	gatherOctets = 64 << 10
	gatherWait   = time.Millisecond

	// It begins after gatherReads reads in a row, within gatherWithin, of
	// gatherLeast octets at the least and less than gatherMost:
	// acknowledgements and dialogues are smaller or slower, and a client that
	// writes many packets at once needs no waiting. It ends when a whole wait has
	// brought less than gatherWorth.
	gatherReads  = 32
	gatherWithin = 10 * time.Millisecond
	gatherLeast  = 1000
	gatherMost   = 16 << 10
	gatherWorth  = 6 << 10
)

// gather decides whether a reader waits for more than one packet.
type gather struct {
	socket *tcpSocket
	on     bool
	waited bool // since the last read
	late   bool // the time was over before gatherOctets were there
	single int  // reads of a few packets at most, in a row
	since  time.Time
}

// before prepares a read.
func (g *gather) before() {
	if g.on {
		g.waited = g.late // then what there is, is taken
		_ = g.socket.conn.SetReadDeadline(time.Now().Add(gatherWait))
	}
}

// wait reports whether the reader has to wait before it looks.
func (g *gather) wait() bool {
	if !g.on || g.waited {
		return false
	}
	g.waited = true
	return true
}

// over says that gatherWait has passed. When it passes again and nothing was
// read in between, there is nothing to gather.
func (g *gather) over() {
	if g.late {
		g.turn(false)
		return
	}
	g.late = true
}

// after learns from a read of n octets.
func (g *gather) after(n int, now func() time.Time) {
	if !canGather {
		return
	}
	if g.on {
		if g.late && n < gatherWorth {
			g.turn(false)
		}
		g.late = false
		return
	}
	if n < gatherLeast || n >= gatherMost {
		g.single = 0
		return
	}
	if t := now(); g.single == 0 || t.Sub(g.since) > gatherWithin {
		g.single, g.since = 0, t
	}
	if g.single++; g.single == gatherReads {
		g.turn(true)
	}
}

// turn begins or ends the waiting for more.
func (g *gather) turn(on bool) {
	octets := 1
	if on {
		octets = gatherOctets
	} else {
		_ = g.socket.conn.SetReadDeadline(time.Time{})
	}
	g.on, g.late, g.single = on, false, 0
	g.socket.wakeAt(octets)
}
