package interop

import (
	"fmt"
	"slices"
	"strings"
)

// Versions and modes of IKE.
const (
	v1Main       = "v1 main"
	v1Aggressive = "v1 aggressive"
	v2           = "v2"
)

// Who begins.
const (
	byGateway = "gateway"
	byPeer    = "peer"
)

// noHash is the hash of an ESP proposal whose cipher authenticates itself.
const noHash = "-"

// noPFS is the API's word for CHILD_SAs without a key exchange of their own.
const noPFS = "disable"

// The parameters of a cell, with the words of the API.
var (
	modes      = []string{v1Main, v1Aggressive, v2}
	initiators = []string{byGateway, byPeer}
	ciphers    = []string{"3des", "aes-128", "aes-192", "aes-256", "aes-128-gcm-16", "aes-256-gcm-16"}
	hashes     = []string{"md5", "sha1", "sha2-256", "sha2-384", "sha2-512"}
	espHashes  = append([]string{noHash}, hashes...)
	groups     = []string{"group1", "group2", "group5", "group14", "group15", "group16", "group19", "group20", "group21"}
	pfsGroups  = append([]string{noPFS}, groups...)
	paths      = []string{"direct", "NAT"}
	styles     = []string{"policy", "route"}
)

// choices are the values of each parameter, in the order of a cell's fields.
type choices [][]string

// ofAPI are those that the API has, and additions those that are beyond it.
var (
	ofAPI     = choices{modes, initiators, ciphers, hashes, groups, ciphers, espHashes, pfsGroups, paths, styles}
	additions = choices{
		{v2},
		initiators,
		{"chacha20-poly1305", "aes-256-gcm-16"},
		{"sha2-512", "sha2-256"},
		{"group31", "group31" + withMLKEM, "group14" + withMLKEM},
		{"chacha20-poly1305", "aes-128"},
		{noHash, "sha2-256"},
		{noPFS, "group31", "group31" + withMLKEM},
		paths, styles,
		{noPPK, "optional", "required"},
	}
)

// withMLKEM follows a group beside which there is an additional key exchange.
const withMLKEM = ", mlkem768"

// noPPK is a cell without a post-quantum pre-shared key.
const noPPK = "-"

// cell is one tunnel. A member is empty while its choice is open.
type cell struct {
	Number                  int // from 1, of its array
	Mode, Initiator         string
	Cipher, Hash, Group     string // of the IKE SA; the hash of an AEAD is the PRF's
	ESPCipher, ESPHash, PFS string
	Path, Style             string
	PPK                     string // of the additions; else empty
}

func (c cell) v1() bool  { return c.Mode == v1Main || c.Mode == v1Aggressive }
func (c cell) nat() bool { return c.Path == "NAT" }

// hasPPK tells that both ends have a post-quantum pre-shared key.
func (c cell) hasPPK() bool { return c.PPK != "" && c.PPK != noPPK }

// name is the connection's, and that of its configuration at the peer.
func (c cell) name() string { return fmt.Sprintf("cell-%d", c.Number) }

// fields are those of a row of an array, in its order.
func (c *cell) fields() []*string {
	return []*string{&c.Mode, &c.Initiator, &c.Cipher, &c.Hash, &c.Group, &c.ESPCipher, &c.ESPHash, &c.PFS, &c.Path, &c.Style, &c.PPK}
}

// String names the choices in the order of the page's columns.
func (c cell) String() string {
	var words []string
	for _, f := range c.fields() {
		if *f != "" {
			words = append(words, *f)
		}
	}
	return strings.Join(words, " | ")
}

// keyExchange returns the group of a choice, and whether ML-KEM is beside it.
func keyExchange(choice string) (group string, mlkem bool) {
	return strings.CutSuffix(choice, withMLKEM)
}

func isAEAD(cipher string) bool {
	return strings.Contains(cipher, "gcm") || strings.Contains(cipher, "poly1305")
}

// limit is something that cannot be, whoever the peer is or for one peer.
type limit struct {
	why    string
	broken func(c cell) bool // must be false where a choice that matters is open
}

// protocolLimits are those of the protocols themselves.
var protocolLimits = []limit{
	{"no RFC has an AEAD in phase 1 of IKEv1", func(c cell) bool { return c.v1() && isAEAD(c.Cipher) }},
	{"an AEAD has no hash in ESP", func(c cell) bool { return isAEAD(c.ESPCipher) && c.ESPHash != "" && c.ESPHash != noHash }},
	{"other ciphers have one", func(c cell) bool { return c.ESPCipher != "" && !isAEAD(c.ESPCipher) && c.ESPHash == noHash }},
}

// withoutMLKEM are those of a peer that has no additional key exchanges.
var withoutMLKEM = []limit{{"strongSwan has ML-KEM from 6.0 on", func(c cell) bool {
	_, ike := keyExchange(c.Group)
	_, child := keyExchange(c.PFS)
	return ike || child
}}}

// newerLimits are those of strongSwan 6 as Debian builds it.
var newerLimits = []limit{{"it has no IKEv1", func(c cell) bool { return c.v1() }}}

// libreswanLimits are what libreswan 4.10 refuses in its configuration.
var libreswanLimits = []limit{
	{"group 1 and 2 are not built in", func(c cell) bool {
		return c.Group == "group1" || c.Group == "group2" || c.PFS == "group1" || c.PFS == "group2"
	}},
	{"in IKEv2 it asks for PFS with the group of the IKE SA only", func(c cell) bool {
		return c.Mode == v2 && c.PFS != "" && c.PFS != noPFS && c.Group != "" && c.PFS != c.Group
	}},
	{"IKEv1 has no PFS with elliptic curves", func(c cell) bool {
		return c.v1() && (c.PFS == "group19" || c.PFS == "group20" || c.PFS == "group21")
	}},
}

// kernelLimits leave of the choices those that a data plane sees: what IKE makes of
// its own SA does not reach it.
var kernelLimits = append([]limit{
	{"one IKE SA", func(c cell) bool {
		return c.Mode == v1Aggressive || c.Cipher != "" && c.Cipher != "aes-128" || c.Hash != "" && c.Hash != "sha2-256" ||
			c.Group != "" && c.Group != "group19"
	}},
	{"PFS or none", func(c cell) bool { return c.PFS != "" && c.PFS != noPFS && c.PFS != "group19" }},
}, libreswanLimits...)

// cells returns the covering array of all that the API has, within the limits.
func cells(limits ...limit) []cell { return ofAPI.cells(limits...) }

// cells returns the covering array within the limits.
func (all choices) cells(limits ...limit) (array []cell) {
	sizes := make([]int, len(all))
	for i, p := range all {
		sizes[i] = len(p)
	}
	for _, row := range coveringArray(sizes, func(row []int) bool { return allows(all.cell(row), limits) }) {
		c := all.cell(row)
		c.Number = len(array) + 1
		array = append(array, c)
	}
	return array
}

func allows(c cell, limits []limit) bool {
	return !slices.ContainsFunc(slices.Concat(protocolLimits, limits), func(l limit) bool { return l.broken(c) })
}

// cell is that of a row of the array.
func (all choices) cell(row []int) cell {
	var c cell
	for i, f := range c.fields()[:len(all)] {
		if row[i] != unset {
			*f = all[i][row[i]]
		}
	}
	return c
}
