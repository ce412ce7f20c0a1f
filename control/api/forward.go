package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/vpngw/vpngw/control"
)

// headerForwarded names the node that has forwarded a request. A request that
// has it is not forwarded again.
const headerForwarded = "X-Vpngw-Forwarded-By"

const (
	forwardTimeout = 10 * time.Second
	maxForwarded   = 16 << 20 // octets of an answer
)

// failed answers a request whose handler failed: by another node, if that has
// what was asked for.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	var elsewhere *control.Elsewhere
	if !errors.As(err, &elsewhere) {
		writeError(w, r, err)
		return
	}
	answer, forwardErr := s.forward(r, elsewhere.Node)
	if forwardErr != nil {
		s.log.Warn("request was not forwarded", "request_id", callOf(r.Context()).requestID,
			"node", elsewhere.Node.Name, "error", forwardErr)
		writeError(w, r, err)
		return
	}
	defer answer.Body.Close()
	for _, name := range []string{"Content-Type", "Cache-Control", headerRequestID} {
		if value := answer.Header.Get(name); value != "" {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(answer.StatusCode)
	sent, err := io.Copy(w, io.LimitReader(answer.Body, maxForwarded+1))
	if err != nil || sent > maxForwarded {
		// The status is out: only the end of the connection tells the client
		// that this is not all.
		s.log.Warn("answer was not forwarded as a whole", "request_id", callOf(r.Context()).requestID,
			"node", elsewhere.Node.Name, "octets", sent, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// notForwarded are headers that are about one connection (RFC 9110, section
// 7.6.1).
var notForwarded = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// forward sends a request to another node as it came, so that its signature
// holds there, too. The node is known by its certificate. The caller closes the
// answer's body.
func (s *Server) forward(r *http.Request, node control.Node) (*http.Response, error) {
	switch {
	case r.Header.Get(headerForwarded) != "":
		return nil, errors.New("it was forwarded already")
	case node.APIURL == "" || node.Fingerprint == "":
		return nil, errors.New("the node does not say where its API is reached")
	case !strings.HasPrefix(node.APIURL, "https://"):
		// Without TLS there is no certificate to know the node by.
		return nil, errors.New("the API of the node is not reached by https")
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardTimeout)
	target := strings.TrimSuffix(node.APIURL, "/") + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	next, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(callOf(r.Context()).body))
	if err != nil {
		cancel()
		return nil, err
	}
	next.Header = r.Header.Clone()
	for _, name := range notForwarded {
		next.Header.Del(name)
	}
	next.Host = r.Host
	next.Header.Set(headerForwarded, s.node)
	answer, err := transportTo(node).RoundTrip(next)
	if err != nil {
		cancel()
		return nil, err
	}
	answer.Body = &cancelling{answer.Body, cancel}
	return answer, nil
}

// cancelling ends the context of a request when its answer has been read.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// transportTo connects to a node and to nobody else.
func transportTo(node control.Node) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			// The certificate is compared with the one in the node's record,
			// whatever names it has.
			InsecureSkipVerify: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				if len(state.PeerCertificates) == 0 || fingerprint(state.PeerCertificates[0].Raw) != node.Fingerprint {
					return fmt.Errorf("the certificate is not that of node %s", node.Name)
				}
				return nil
			},
		},
	}
}
