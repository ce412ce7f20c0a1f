package main

import (
	"cmp"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"time"

	"github.com/vpngw/vpngw/control/store/etcd"
)

// Stores.
const (
	storeBolt = "bbolt" // a file of this node
	storeEtcd = "etcd"  // a cluster that the nodes of a fleet share
)

type storeConfig struct {
	Backend      string        `yaml:"backend"`
	Endpoints    []string      `yaml:"endpoints"`
	Prefix       string        `yaml:"prefix"`
	CAFile       string        `yaml:"ca_file"`
	CertFile     string        `yaml:"cert_file"`
	KeyFile      string        `yaml:"key_file"`
	Username     string        `yaml:"username"`
	Password     string        `yaml:"password"`
	PasswordFile string        `yaml:"password_file"`
	PasswordEnv  string        `yaml:"password_env"`
	Plaintext    bool          `yaml:"plaintext"`
	Timeout      time.Duration `yaml:"timeout"`
	SealKeyFile  string        `yaml:"seal_key_file"`
}

type fleetConfig struct {
	Lease       time.Duration `yaml:"lease"`
	HistoryFile string        `yaml:"history_file"`
}

// defaultLease is how long the others wait for a node. A cluster with default
// settings elects a leader within two seconds; a node whose lease were not
// longer than that and a renewal's pause would stop at each election.
const defaultLease = 5 * time.Second

// Bounds of the lease: below the least one a cluster with default settings
// grants two seconds all the same.
const minLease, maxLease = 2 * time.Second, time.Minute

// nodeName is what the name of a fleet's node may be: it is part of a key.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (s *storeConfig) options() etcd.Options {
	return etcd.Options{
		Endpoints: s.Endpoints, Plaintext: s.Plaintext, CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile,
		Username: s.Username, Password: s.Password, Prefix: s.Prefix, Timeout: s.Timeout,
	}
}

// sealingKeyPath is where the key is that opens the secrets of the store.
func (c *config) sealingKeyPath() string {
	return cmp.Or(c.Store.SealKeyFile, filepath.Join(c.DataDir, sealingKeyFile))
}

// apiURL is where other nodes reach the API; empty where they cannot.
func (c *config) apiURL() string {
	listen, err := netip.ParseAddrPort(c.API.Listen)
	switch {
	case c.Node.APIURL != "":
		return c.Node.APIURL
	case err != nil || listen.Addr().IsUnspecified() || listen.Addr().IsLoopback() || c.API.TLS.Mode == tlsOff:
		return ""
	}
	return "https://" + listen.String()
}

func (c *config) checkStore(p *problems) {
	s := &c.Store
	switch s.Backend {
	case storeBolt:
		alone := *s
		alone.Backend, alone.SealKeyFile = "", ""
		if !reflect.ValueOf(alone).IsZero() {
			p.add("store", "endpoints, prefix, certificates, user, plaintext and timeout go with backend etcd only")
		}
		if c.Fleet != (fleetConfig{Lease: defaultLease}) {
			p.add("fleet", "goes with store.backend etcd only")
		}
	case storeEtcd:
		if err := s.options().Validate(); err != nil {
			p.add("store", "%v", err)
		}
		if !nodeName.MatchString(c.Node.Name) {
			p.add("node.name", "%q: 1 to 63 letters, digits, dots, hyphens and underscores are wanted, the first a letter or digit", c.Node.Name)
		}
		if l := c.Fleet.Lease; l < minLease || l > maxLease || l%time.Second != 0 {
			p.add("fleet.lease", "%s is not in %s-%s, or not whole seconds", l, minLease, maxLease)
		}
	default:
		p.oneOf("store.backend", s.Backend, storeBolt, storeEtcd)
	}
	if text := c.Node.APIURL; text != "" {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			p.add("node.api_url", "wanted https://host:port")
		}
	}
}
