package connlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/vpngw/vpngw/control"
)

const httpTimeout = 30 * time.Second

// httpSink posts batches as lines of JSON. The receiver must take a batch that
// it has taken before: an answer may be lost.
type httpSink struct {
	config control.HTTPSink
	client *http.Client
}

func newHTTPSink(c *control.HTTPSink) *httpSink {
	return &httpSink{config: *c, client: &http.Client{
		Timeout:   httpTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: httpTimeout},
		// Records go where the configuration says, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *httpSink) deliver(ctx context.Context, batch []Record) (int, error) {
	var text bytes.Buffer
	for i := range batch {
		text.Write(batch[i].line())
		text.WriteByte('\n')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.URL, &text)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if a := s.config.Authorization; !a.IsZero() {
		req.Header.Set("Authorization", a.Reveal())
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return len(batch), nil
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code/100 == 5:
		return 0, fmt.Errorf("the server answers %s", resp.Status)
	default:
		return 0, fmt.Errorf("%w: the server answers %s", errRefused, resp.Status)
	}
}

func (s *httpSink) close() { s.client.CloseIdleConnections() }
