package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

const (
	// stormWatched is how many of the sessions that stay up are pinged through.
	stormWatched = 20
	stormPing    = 100 * time.Millisecond
	// stormCalm is for how long they are pinged before.
	stormCalm = 3 * time.Second
)

// stormResult is what sessions that come back all at once take, and leave to others.
type stormResult struct {
	Sessions int `json:"sessions"` // that were killed
	// Seconds is the time from the kill until the last of them was connected again.
	Seconds float64 `json:"seconds"`
	// Calm and Storm are the pings before and meanwhile.
	Calm  stormPings `json:"calm"`
	Storm stormPings `json:"storm"`
}

// stormPings are pings through several sessions at the same time.
type stormPings struct {
	Sent    int     `json:"sent"`
	Lost    int     `json:"lost"`
	Longest float64 `json:"longest_ms"` // round trip
}

func (r *stormResult) String() string {
	return fmt.Sprintf("%d killed sessions were all back after %.2f s; meanwhile %d of %d pings through others were lost, and the longest took %.1f ms (before: %d of %d, %.1f ms)",
		r.Sessions, r.Seconds, r.Storm.Lost, r.Storm.Sent, r.Storm.Longest, r.Calm.Lost, r.Calm.Sent, r.Calm.Longest)
}

// measureStorm connects sessions, kills their process, and connects as many again.
// The first sessions of the lab, which have devices, are pinged through.
func (l *p2cLab) measureStorm(ctx context.Context, o sessionsOptions, watched int) (*stormResult, error) {
	for i := range watched {
		if err := l.routeClient(ctx, i); err != nil {
			return nil, err
		}
	}
	victims, err := l.startClientsNode(ctx, "victims", p2cNode{Sessions: o.reconnect, Parallel: o.parallel})
	if err != nil {
		return nil, err
	}
	r := &stormResult{Sessions: o.reconnect}
	r.Calm, err = l.pingThrough(ctx, "calm", func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stormCalm):
			return nil
		}
	})
	if err != nil {
		return nil, err
	}
	r.Storm, err = l.pingThrough(ctx, "storm", func() error {
		killed := time.Now()
		if err := victims.Kill(); err != nil {
			return err
		}
		_, err := l.startClientsNode(ctx, "back", p2cNode{Sessions: o.reconnect, Parallel: o.reconnect, Again: true})
		r.Seconds = time.Since(killed).Seconds()
		return err
	})
	return r, err
}

// pingThrough sends echo requests through each of the sessions with a device while
// something is done.
func (l *p2cLab) pingThrough(ctx context.Context, name string, during func() error) (sum stormPings, err error) {
	pings := make([]*netlab.Ping, len(l.addresses))
	for i, a := range l.addresses {
		if pings[i], err = l.clients.StartPing(fmt.Sprintf("ping-%s-%d", name, i), a, p2cHost, stormPing); err != nil {
			return sum, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, p2cPatience)
	defer cancel()
	answered := func() (bool, error) {
		return !slices.ContainsFunc(pings, func(p *netlab.Ping) bool { return p.Received() == 0 }), nil
	}
	if err := netlab.Poll(waiting, stormPing, answered); err != nil {
		return sum, fmt.Errorf("pings before: %w", err)
	}
	if err := during(); err != nil {
		return sum, err
	}
	for _, p := range pings {
		report, err := p.Finish(waiting)
		if err != nil {
			return sum, err
		}
		sum.Sent += report.Sent
		sum.Lost += len(report.Lost)
		sum.Longest = max(sum.Longest, 1000*report.Longest.Seconds())
	}
	return sum, nil
}
