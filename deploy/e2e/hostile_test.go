//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// rss is what the daemon occupies, in octets: now, and at most so far.
func (w *world) rss() (now, peak int64) {
	w.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.daemon.PID()))
	w.check(err)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = n << 10
		case "VmHWM":
			peak = n << 10
		}
	}
	return now, peak
}

// maxGrowth is by how much one hostile client makes the daemon grow, in octets.
// A host with twice as much to spare does not notice.
const maxGrowth = 256 << 20

// A client that may do everything tries to exhaust the daemon's memory: by bodies
// that are large, deep or wide, by answers that are large and not read, by
// connections and streams, and by bodies that never end. It does not succeed, and
// another client is served all the time.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5*time.Minute, netlab.Config{Sites: make([]netlab.SiteConfig, 1)}, netlab.DaemonOptions{})
	w.manyTags()
	before, _ := w.rss()
	for _, attack := range []struct {
		name string
		run  func(ctx context.Context)
	}{
		{"bodies", w.largeBodies},
		{"answers", w.unreadAnswers},
		{"endless bodies", w.endlessBodies},
	} {
		attack.run(w.ctx)
		now, peak := w.rss()
		t.Logf("%s: %d MiB before, %d MiB now, %d MiB at most", attack.name, before>>20, now>>20, peak>>20)
		if peak-before > maxGrowth {
			t.Errorf("%s: the daemon grew by %d MiB", attack.name, (peak-before)>>20)
		}
		ctx, cancel := context.WithTimeout(w.ctx, patience)
		err := netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
			_, err := w.api.List(ctx, client.Gateways)
			return err == nil, nil
		})
		cancel()
		if err != nil {
			t.Fatalf("%s: the daemon serves nobody any more: %v", attack.name, err)
		}
	}
}

// manyTags makes as many customer gateways as there may be, with the longest tags.
func (w *world) manyTags() {
	w.t.Helper()
	tags := []client.Object{}
	for i := range 20 {
		tags = append(tags, client.Object{"key": fmt.Sprintf("%0128d", i), "value": strings.Repeat("v", 255)})
	}
	for i := range 100 {
		_, err := w.api.Create(w.ctx, client.CustomerGateways, client.Object{"id_value": fmt.Sprintf("198.18.0.%d", i+1), "tags": tags})
		w.check(err)
	}
}

// largeBodies sends, eight at a time, what is at or beyond the limits of a body.
func (w *world) largeBodies(ctx context.Context) {
	w.t.Helper()
	const size = 256 << 10
	wide, list := &bytes.Buffer{}, &bytes.Buffer{}
	for i := 0; wide.Len() < size-64; i++ {
		fmt.Fprintf(wide, `"%d":1,`, i)
		list.WriteString(`{"key":"k","value":"v"},`)
	}
	bodies := []string{
		`{"customer_gateway":{"id_value":"` + strings.Repeat("x", size-100) + `"}}`,
		`{"customer_gateway":{"id_value":"198.51.100.9","name":"` + strings.Repeat("é", size/4) + `"}}`,
		`{"customer_gateway":` + strings.Repeat("[", size/2-32) + strings.Repeat("]", size/2-32) + `}`,
		strings.Repeat(`{"customer_gateway":`, 9000) + "1" + strings.Repeat("}", 9000),
		`{"customer_gateway":{` + wide.String() + `"id_value":"1"}}`,
		`{"customer_gateway":{"id_value":"198.51.100.9","tags":[` + strings.TrimSuffix(list.String()[:size-200], ",") + `{}]}}`,
		`"` + strings.Repeat("x", 4<<20) + `"`,
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 2 * len(bodies) {
				body := bodies[(i+j)%len(bodies)]
				if !json.Valid([]byte(body)) {
					body = bodies[0] // the client does not send what is no JSON
				}
				if err := w.api.Call(ctx, http.MethodPost, "customer-gateways", json.RawMessage(body), nil); err == nil {
					w.t.Error("a hostile body was accepted")
				}
			}
		})
	}
	group.Wait()
}

// hostile returns a client with a connection of its own that sends what only
// looks signed. The daemon has to read the body to tell.
func (w *world) hostile() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: w.Gateway.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	}}
}

func (w *world) unsigned(ctx context.Context, method, path string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, "https://127.0.0.1:8443/v5/"+netlab.Project+"/"+path, body)
	w.check(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Sdk-Date", time.Now().UTC().Format("20060102T150405Z"))
	r.Header.Set("Authorization", "SDK-HMAC-SHA256 Access=LABACCESSKEY, SignedHeaders=x-sdk-date, Signature="+strings.Repeat("0", 64))
	return r
}

// unreadAnswers asks for large lists many times at once.
func (w *world) unreadAnswers(ctx context.Context) {
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range 4 {
				_ = w.api.Call(ctx, http.MethodGet, "customer-gateways", nil, nil) // most are refused as busy
			}
		})
	}
	group.Wait()
}

// endlessBodies keeps many requests open, each with a body just below the limit
// that does not end. It leaves some of the connections that an address may have
// to the client that is served.
func (w *world) endlessBodies(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for range 200 {
		c := w.hostile()
		for range 8 {
			body, feed := io.Pipe()
			group.Go(func() {
				answer, err := c.Do(w.unsigned(ctx, http.MethodPost, "customer-gateways", body))
				_ = body.CloseWithError(io.ErrClosedPipe)
				if err == nil {
					answer.Body.Close()
				}
			})
			group.Go(func() {
				_, _ = feed.Write(bytes.Repeat([]byte("x"), 255<<10))
				<-ctx.Done()
				_ = feed.CloseWithError(ctx.Err())
			})
		}
	}
	// Meanwhile somebody else is served.
	for range 20 {
		if _, err := w.api.List(ctx, client.Gateways); err != nil {
			w.t.Errorf("another client was not served: %v", err)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	group.Wait()
}
