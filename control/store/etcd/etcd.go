// Package etcd keeps a store in an etcd cluster, where the daemons of a fleet
// share it. The contract is that of package store; the revisions are those of
// the cluster, so other users of the cluster leave holes in them.
//
//	{Prefix}/schema         version of the layout
//	{Prefix}/entries/{key}  value of the entry, as it is
//
// A cluster with default settings will do: etcd 3.4 or newer, and compaction
// that keeps some minutes of history so that a watch outlives an interruption
// of that length. Releases before 3.4.36 and 3.5.18 drop a deletion that
// happened at the very revision of a compaction; a watch that was cut off
// right before it does not learn of that one.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	schemaVersion  = "1"
	defaultPrefix  = "/vpngw"
	defaultTimeout = 5 * time.Second
	maxPrefixSize  = 128 // octets

	// A connection without an answer for as long as these two is dead, and a
	// new one is tried at these intervals.
	keepaliveTime     = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
	firstRedial       = 100 * time.Millisecond
	lastRedial        = 2 * time.Second
	minConnectTimeout = 3 * time.Second
)

// ErrSchema says that the cluster holds the layout of another release.
var ErrSchema = errors.New("schema version")

// Options say where the cluster is and how to speak to it.
type Options struct {
	// Endpoints are URLs of members: https://host:port, or http://host:port,
	// all of one scheme.
	Endpoints []string
	// Plaintext allows http to members on other hosts, where everybody on the
	// path can read and rewrite the store. On loopback it always may be used.
	Plaintext bool

	// CAFile holds the certificates, in PEM, that sign those of the members.
	// Without it those of the system do.
	CAFile string
	// CertFile and KeyFile, in PEM, identify this client. They are read again
	// for every connection, so they can be renewed.
	CertFile, KeyFile string
	// Username and Password identify this client if the cluster has
	// authentication enabled.
	Username, Password string

	// Prefix is what all keys of the store begin with: "/vpngw" unless set.
	// Stores with different prefixes share a cluster.
	Prefix string
	// Timeout bounds each request to the cluster: 5 s unless set.
	Timeout time.Duration
	// Logger hears of interrupted watches.
	Logger *slog.Logger
}

// Validate tells what is wrong with the options, and with the files they name,
// as far as can be told without the cluster.
func (o Options) Validate() error {
	_, err := o.withDefaults().clientConfig()
	return err
}

func (o Options) withDefaults() Options {
	o.Prefix = cmp.Or(o.Prefix, defaultPrefix)
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Open connects to a cluster, and makes the store in it if it is not there. It
// fails if the cluster does not answer or holds the layout of another release.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	o = o.withDefaults()
	config, err := o.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("open store in etcd: %w", err)
	}
	c := &Cluster{
		name:    strings.Join(o.Endpoints, ", "),
		prefix:  strings.TrimSuffix(o.Prefix, "/"),
		timeout: o.Timeout,
		log:     o.Logger,
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	config.Context = c.ctx
	if err := c.connect(ctx, config); err != nil {
		err = c.explain(ctx, err)
		return nil, errors.Join(fmt.Errorf("open store in etcd: %w", err), c.Close())
	}
	return c, nil
}

// connect logs in and looks at the schema.
func (c *Cluster) connect(ctx context.Context, config clientv3.Config) (err error) {
	unhook := context.AfterFunc(ctx, c.cancel) // clientv3.New takes no context for its work alone
	c.client, err = clientv3.New(config)
	if !unhook() {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	ctx, done := c.request(ctx)
	defer done()
	schema := c.prefix + schemaKey
	resp, err := c.commit(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(schema), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(schema, schemaVersion)},
		[]clientv3.Op{clientv3.OpGet(schema)})
	if err != nil || resp.Succeeded {
		return err
	}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		if have := string(kv.Value); have != schemaVersion {
			return fmt.Errorf("%w %q, this release reads %q", ErrSchema, have, schemaVersion)
		}
	}
	return nil
}

func (o Options) clientConfig() (clientv3.Config, error) {
	encrypted, err := o.checkEndpoints()
	if err != nil {
		return clientv3.Config{}, err
	}
	if len(o.Prefix) > maxPrefixSize {
		return clientv3.Config{}, fmt.Errorf("prefix has %d octets, at most %d", len(o.Prefix), maxPrefixSize)
	}
	if o.Timeout < 0 {
		return clientv3.Config{}, fmt.Errorf("timeout %s is negative", o.Timeout)
	}
	if (o.Username == "") != (o.Password == "") {
		return clientv3.Config{}, errors.New("username and password: one without the other")
	}
	config := clientv3.Config{
		Endpoints:            o.Endpoints,
		Username:             o.Username,
		Password:             o.Password,
		DialTimeout:          o.Timeout,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		PermitWithoutStream:  true,
		Logger:               zap.NewNop(), // what it has to say is in the errors
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(keepReason),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{
					BaseDelay:  firstRedial,
					Multiplier: backoff.DefaultConfig.Multiplier,
					Jitter:     backoff.DefaultConfig.Jitter,
					MaxDelay:   lastRedial,
				},
				MinConnectTimeout: minConnectTimeout,
			}),
		},
	}
	if encrypted {
		config.TLS, err = o.tlsConfig()
	} else if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
		err = errors.New("endpoints are http, where certificates have no use")
	}
	return config, err
}

// checkEndpoints tells whether the endpoints are https.
func (o Options) checkEndpoints() (encrypted bool, err error) {
	if len(o.Endpoints) == 0 {
		return false, errors.New("no endpoint")
	}
	for i, endpoint := range o.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Port() == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) ||
			u.Scheme != "https" && u.Scheme != "http" {
			return false, fmt.Errorf("endpoint %d: wanted https://host:port", i+1) // it may hold a password
		}
		if i > 0 && encrypted != (u.Scheme == "https") {
			return false, errors.New("endpoints: some are https and some http")
		}
		encrypted = u.Scheme == "https"
		if !encrypted && !o.Plaintext && !isLoopback(u.Hostname()) {
			return false, fmt.Errorf("endpoint %q: http to another host is not allowed", endpoint)
		}
	}
	return encrypted, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (o Options) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca file %s holds no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile == "" && o.KeyFile == "" {
		return config, nil
	}
	load := func() (*tls.Certificate, error) {
		certificate, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		return &certificate, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return config, nil
}
