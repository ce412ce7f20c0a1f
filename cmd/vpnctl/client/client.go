// Package client speaks the VPN REST API: it signs requests with an access
// key, walks pages, and turns refusals into errors with the API's code.
package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxAnswer bounds what is read of an answer, in octets.
const maxAnswer = 64 << 20

// Options say where the API is and who asks.
type Options struct {
	Endpoint  string // such as "https://127.0.0.1:8443"
	ProjectID string
	AccessKey string
	SecretKey string

	// CA holds certificates in PEM that the server's has to come from; empty
	// means those of the system.
	CA []byte
	// Insecure leaves the server's certificate unchecked.
	Insecure bool
	// DialContext, when set, makes the connections.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout bounds one call; zero means 30 s.
	Timeout time.Duration
}

// Client is the API of one project. It is safe for concurrent use.
type Client struct {
	base      *url.URL
	project   string
	accessKey string
	secretKey string
	http      *http.Client
}

// Error is a refusal by the API.
type Error struct {
	Status    int    // HTTP status code
	Code      string // such as "VPN.0001"
	Message   string
	RequestID string
}

// Error reads "VPN.0001 (400): invalid request: …".
func (e *Error) Error() string {
	text := fmt.Sprintf("%s (%d): %s", e.Code, e.Status, e.Message)
	if e.Code == "" {
		text = fmt.Sprintf("status %d: %s", e.Status, e.Message)
	}
	if e.RequestID != "" {
		text += ", request " + e.RequestID
	}
	return text
}

// IsNotFound reports whether the API said that there is no such object.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Code == codeNoPolicy)
}

// IsDenied reports whether the API refused the credentials or the role. A
// resource that is not ready has the same code as a denied permission and is
// none.
func IsDenied(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden && !notReady(e))
}

// IsNotReady reports whether the object is in work at the moment, so that the
// same call may succeed later.
func IsNotReady(err error) bool {
	var e *Error
	return errors.As(err, &e) && notReady(e)
}

func notReady(e *Error) bool { return strings.Contains(e.Message, "is not ready") }

// New checks the options; it does not yet connect.
func New(o Options) (*Client, error) {
	for _, f := range []struct{ name, value string }{
		{"endpoint", o.Endpoint}, {"project", o.ProjectID}, {"access key", o.AccessKey}, {"secret key", o.SecretKey},
	} {
		if f.value == "" {
			return nil, fmt.Errorf("%s: is missing", f.name)
		}
	}
	base, err := url.Parse(o.Endpoint)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("endpoint: %q is not a URL such as https://127.0.0.1:8443", o.Endpoint)
	}
	config := &tls.Config{InsecureSkipVerify: o.Insecure, MinVersion: tls.VersionTLS12}
	if len(o.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("ca: has no certificate in PEM")
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	return &Client{
		base: base, project: o.ProjectID, accessKey: o.AccessKey, secretKey: o.SecretKey,
		http: &http.Client{
			Timeout:   o.Timeout,
			Transport: &http.Transport{TLSClientConfig: config, DialContext: o.DialContext, Proxy: http.ProxyFromEnvironment},
			// A redirect would carry the signature of another request.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Call makes a call below /v5/{project} that no other method makes; in and out
// may be nil.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	if err := c.do(ctx, method, path, nil, in, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// try makes one call below /v5/{project}; in and out may be nil.
func (c *Client) try(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	target := c.base.JoinPath("v5", c.project, path)
	target.RawQuery = query.Encode()
	return c.exchange(ctx, method, target, body, out)
}

// exchange sends one request and decodes the answer into out, which may be nil.
func (c *Client) exchange(ctx context.Context, method string, target *url.URL, body []byte, out any) error {
	answer, err := c.send(ctx, method, target, body)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the API's answer: %w", err)
	}
	if answer.StatusCode >= 300 {
		return refusal(answer, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the API's answer: %w", err)
	}
	return nil
}

// Nodes returns the nodes that share the store, with what each does for the
// project.
func (c *Client) Nodes(ctx context.Context) ([]Object, error) {
	var answer struct {
		Nodes []Object `json:"nodes"`
	}
	if err := c.exchange(ctx, http.MethodGet, c.base.JoinPath("vpngw", "v1", "nodes"), nil, &answer); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return answer.Nodes, nil
}

// Backup writes a backup of the store, with the objects of all projects.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	answer, err := c.send(ctx, http.MethodGet, c.base.JoinPath("vpngw", "v1", "backup"), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
		return refusal(answer, text)
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	return nil
}

// Restore replaces the store, with the objects of all projects, by a backup. It
// returns how many entries that has.
func (c *Client) Restore(ctx context.Context, backup io.Reader) (entries int, err error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := io.Copy(w, backup); err != nil {
		return 0, fmt.Errorf("read the backup: %w", err)
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	body, err := json.Marshal(map[string][]byte{"backup": packed.Bytes()})
	if err != nil {
		return 0, err
	}
	answer, err := c.send(ctx, http.MethodPost, c.base.JoinPath("vpngw", "v1", "restore"), body)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode >= 300 {
		return 0, refusal(answer, text)
	}
	var restored struct {
		Entries int `json:"entries"`
	}
	return restored.Entries, errors.Join(err, json.Unmarshal(text, &restored))
}

// send signs and sends one request. The caller closes the answer's body.
func (c *Client) send(ctx context.Context, method string, target *url.URL, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Project-Id", c.project)
	if method != http.MethodGet {
		// Tells two equal calls apart, whose signatures within one second
		// would be equal and so look like a replay.
		r.Header.Set("X-Client-Token", uuid.NewString())
	}
	sign(r, body, c.accessKey, c.secretKey, time.Now())
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("call the API: %w", err)
	}
	return answer, nil
}

func refusal(answer *http.Response, text []byte) error {
	var e struct {
		Code      string `json:"error_code"`
		Message   string `json:"error_msg"`
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal(text, &e) != nil || e.Message == "" {
		const shown = 200
		e.Message = strings.TrimSpace(string(text[:min(len(text), shown)]))
		if e.Message == "" {
			e.Message = http.StatusText(answer.StatusCode)
		}
	}
	if e.RequestID == "" {
		e.RequestID = answer.Header.Get("X-Request-Id")
	}
	return &Error{Status: answer.StatusCode, Code: e.Code, Message: e.Message, RequestID: e.RequestID}
}
