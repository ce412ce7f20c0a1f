package sslvpn

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
)

// Config is the whole wanted state of a Server.
type Config struct {
	Endpoints []Endpoint
}

// Endpoint is one VPN server: its listeners, its clients and what they may
// reach. IDs are opaque to the engine and appear in events and snapshots.
type Endpoint struct {
	ID      string
	Gateway string // the gateway that it belongs to, for events

	// TCP and UDP are the addresses to listen on. Several endpoints cannot
	// share one.
	TCP, UDP []netip.AddrPort
	// Device names the TUN device of the endpoint, at most 15 octets. The
	// caller routes Pool to it.
	Device string

	Cipher     Cipher
	Compressed bool // offers lz4-v2 framing, never compresses itself
	// ClassicKeys keeps to the data format that all clients have, also with those
	// that announce epoch data keys.
	ClassicKeys bool
	// Certificate is the chain and private key of the server.
	Certificate *tls.Certificate

	// TLSCryptKey is a static key of 256 octets that the profiles of the clients
	// have too: control packets are wrapped with it (tls-crypt), and who lacks it
	// gets no answer. Without one they go plain.
	TLSCryptKey []byte
	// TLSCryptV2Key is a key of 128 octets that only the server has. Each profile
	// has a key of its own, wrapped with it (tls-crypt-v2). It goes without
	// TLSCryptKey.
	TLSCryptV2Key []byte
	// RevokedClientKeys are the keys of profiles, for TLSCryptV2Key, that nobody
	// may connect with any more, in hexadecimal digits (wire.ClientKeyID). Sessions
	// that were begun with one end.
	RevokedClientKeys []string
	// PortShare is a server, such as one of HTTPS, that gets the connections on
	// TCP which do not begin as those of clients; the zero value: they are closed.
	PortShare netip.AddrPort

	// Auth says how clients prove who they are: by one method, or by all of
	// several.
	Auth AuthMethod
	// OneTimeCodes asks every user for a code by time (RFC 6238) besides the
	// password. One without a secret cannot log in.
	OneTimeCodes bool
	// ClientCAs are the trust anchors of client certificates, for AuthCertificate;
	// without one nobody can connect.
	ClientCAs []*x509.Certificate
	// ClientCRLs are revocation lists of CAs in the chains of clients. One that
	// is out of date turns all certificates of its CA down.
	ClientCRLs []*x509.RevocationList
	// Users are those who may log in, for AuthPassword, by unique name.
	Users []User
	// Policies say what users may reach, for AuthPassword: the union over the
	// policies of the user's group, and nothing without one. With
	// AuthCertificate alone every client reaches all of Routes.
	Policies []Policy

	// Foreign are the pools of other endpoints. A policy for all of IPv4 or IPv6
	// does not reach them; one that names them, or a network with them, does.
	Foreign []netip.Prefix

	// Pool is the network of the clients, IPv4, in blocks of /30 (topology
	// net30): the first host of the first block is the server's address, a
	// client has the first host of a block and the second one as its peer.
	Pool netip.Prefix
	// Pool6 is the network of the clients' IPv6 addresses, of /64 to /112; the
	// zero value: the tunnels carry IPv4 alone. A client's address, and the
	// server's, is as far from its beginning as the one of IPv4 is from Pool's.
	// The caller routes Pool6 to the device, too.
	Pool6 netip.Prefix
	// Topology is how clients see the pool; the zero value is TopologyNet30.
	Topology Topology
	// Routes, DNS and Domain, the name that a resolver completes names with, are
	// pushed to the clients; routes of IPv6 need a Pool6. A change of them reaches
	// connected clients that speak PUSH_UPDATE at once.
	Routes []netip.Prefix
	DNS    []netip.Addr
	Domain string

	// MaxSessions bounds the sessions of the endpoint, MaxSessionsPerUser those
	// of one user (0: no bound of its own).
	MaxSessions, MaxSessionsPerUser int
	// BandwidthMbps limits what all sessions carry together, for each
	// direction; 0 is no limit.
	BandwidthMbps int
}

// Cipher is the cipher of a data channel by its OpenVPN name.
type Cipher string

// Ciphers.
const (
	AES128GCM        Cipher = "AES-128-GCM"
	AES256GCM        Cipher = "AES-256-GCM"
	ChaCha20Poly1305 Cipher = "CHACHA20-POLY1305"
)

// Topology is how a client sees the pool: with the same addresses, which differ in
// what else is on the link.
type Topology int

// Topologies.
const (
	// TopologyNet30: a point-to-point link to the second host of the client's
	// block. All clients take it, but not their kernels' data path.
	TopologyNet30 Topology = iota
	// TopologySubnet: a link with all of the pool, which the server does not let
	// clients reach each other through. Clients with kernel offload need it.
	TopologySubnet
)

// AuthMethod is a set of the ways in which clients prove who they are.
type AuthMethod int

// Authentication methods. With both, a user has a password and a certificate,
// whose name need not be the user's.
const (
	AuthPassword AuthMethod = 1 << iota
	AuthCertificate
)

// Has reports whether a method is in the set.
func (m AuthMethod) Has(one AuthMethod) bool { return m&one != 0 }

// User may log in with a password.
type User struct {
	ID, Name string
	// PasswordHash is given to Options.VerifyPassword. A session ends when the
	// hash of its user changes.
	PasswordHash string
	// CodeSecret is what the user's one-time codes are made with, at least 16
	// octets; nil: there are none.
	CodeSecret []byte
	Group      string     // id; empty: none, the user reaches nothing
	StaticIP   netip.Addr // a first host of a /30 block of Pool; the zero Addr: any
}

// Policy lets the users of a group reach destinations.
type Policy struct {
	ID           string
	Group        string // id
	Destinations []netip.Prefix
}
