package xfrm

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// Abilities is what the kernel can do, as it said when it was asked.
type Abilities struct {
	// Devices is what route-based tunnels get: "xfrm", "vti", or "none".
	Devices string
	// IPv6 says that outer packets can be IPv6.
	IPv6 bool
	// Bandwidth is why SetBandwidths has no effect, or nil.
	Bandwidth error
	// SegmentSize is why the maximum segment size of TCP connections through tunnels
	// is not lowered to what fits, or nil.
	SegmentSize error

	lacking map[ipsec.Transform]error // why not, of the known algorithms
}

// Supports returns why the kernel cannot serve an SA by a proposal, whichever of
// its transforms are chosen, or nil.
func (a *Abilities) Supports(p ipsec.Proposal) error {
	for _, t := range p.Transforms {
		var err error
		switch {
		case t.Type == ipsec.TransformEncryption:
			_, err = findCipher(t)
		case t.Type == ipsec.TransformIntegrity && t.ID != ipsec.IntegrityNone:
			_, err = findMAC(t)
		default:
			continue
		}
		if err == nil {
			err = a.lacking[t]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Lacking returns the algorithms that the kernel has not, with its reasons.
func (a *Abilities) Lacking() map[ipsec.Transform]error { return maps.Clone(a.lacking) }

// Abilities returns what the kernel can do.
func (b *Backend) Abilities() Abilities { return b.abilities }

// probeName is the device that is made and removed to see whether it can be.
const probeName = "vpngwprobe"

// probe asks the kernel: it adds one SA for each algorithm to an address of the
// loopback network and removes it at once, and makes a device. The error tells
// that there is no ESP at all.
func (b *Backend) probe() error {
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	gcm := ipsec.Encryption(ipsec.EncryptionAESGCM16, 128)
	cbc, sha := ipsec.Encryption(ipsec.EncryptionAESCBC, 128), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128)
	lacking := map[ipsec.Transform]error{}
	for _, c := range ciphers {
		mac := ipsec.Transform{}
		if c.icvBits == 0 {
			mac = sha
		}
		if err := b.try(local, c.transform, mac); err != nil {
			lacking[c.transform] = err
		}
	}
	for _, m := range macs {
		if err := b.try(local, cbc, m.transform); err != nil {
			lacking[m.transform] = err
		}
	}
	if len(lacking) == len(ciphers)+len(macs) {
		return fmt.Errorf("the kernel has no ESP: %w", lacking[gcm])
	}
	b.abilities = Abilities{IPv6: b.try(netip.IPv6Loopback(), gcm, ipsec.Transform{}) == nil, lacking: lacking}
	if !b.abilities.IPv6 && lacking[gcm] != nil {
		b.abilities.IPv6 = b.try(netip.IPv6Loopback(), cbc, sha) == nil
	}
	for _, b.kind = range []deviceKind{kindXFRM, kindVTI, kindNone} {
		if b.kind == kindNone || b.tryDevice() == nil {
			break
		}
	}
	b.abilities.Devices = b.kind.String()
	if b.kind == kindNone {
		return nil
	}
	b.abilities.SegmentSize = b.trySegmentSize()
	return nil
}

// try adds an SA and removes it.
func (b *Backend) try(local netip.Addr, encryption, integrity ipsec.Transform) error {
	whole := ipsec.SelectorFromPrefix(netip.PrefixFrom(local, local.BitLen()))
	sa := ipsec.SA{
		Direction: ipsec.In, Src: local, Dst: local, Encryption: encryption, Integrity: integrity, ESN: true,
		Local: []ipsec.TrafficSelector{whole}, Remote: []ipsec.TrafficSelector{whole},
	}
	c, err := findCipher(encryption)
	if err != nil {
		return err
	}
	sa.EncryptionKey = make([]byte, c.keyBits/8)
	rand.Read(sa.EncryptionKey) // 3DES refuses keys whose parts are equal
	if m, err := findMAC(integrity); err == nil {
		sa.IntegrityKey = make([]byte, m.keyBits/8)
	}
	const attempts = 8
	for range attempts {
		var random [4]byte
		rand.Read(random[:])
		sa.SPI = ipsec.SPI(binary.BigEndian.Uint32(random[:]) | 1<<31)
		if err = b.install(&sa, nil); err == nil {
			return b.conn.do(b.idRequest(nl.XFRM_MSG_DELSA, unix.NLM_F_ACK, sa.ID(), 0), nil)
		}
		if !errors.Is(err, ipsec.ErrExists) {
			return err
		}
	}
	return err
}

// tryDevice makes a device of the kind at hand and removes it.
func (b *Backend) tryDevice() error {
	if link, err := b.links.LinkByName(probeName); err == nil {
		_ = b.links.LinkDel(link) // of a process that ended while it tried
	}
	if err := b.links.LinkAdd(b.linkOf(probeName, ^uint32(0), defaultMTU)); err != nil {
		return err
	}
	link, err := b.links.LinkByName(probeName)
	if err == nil {
		b.abilities.Bandwidth = b.tryPolice(link)
		err = b.links.LinkDel(link)
	}
	return err
}

// tryPolice limits a device that goes at once.
func (b *Backend) tryPolice(link netlink.Link) error {
	unused := &bandwidth{mbps: 1} // whose numbers the kernel chooses
	for _, d := range directions {
		if err := b.addPolice(link, police{parent: d.parent}, unused, nil); err != nil {
			return err
		}
	}
	return nil
}

// statReasons are the counters of /proc/net/xfrm_stat by the reasons of the data
// plane in user space, so that one name says one thing. The others, which are
// faults of the kernel or of its configuration, have their own names.
var statReasons = map[string]string{
	"XfrmInNoStates":          "unknown_spi",
	"XfrmInStateProtoError":   "integrity",
	"XfrmInStateSeqError":     "replay",
	"XfrmInStateExpired":      "expired",
	"XfrmInStateMismatch":     "selectors",
	"XfrmInNoPols":            "selectors",
	"XfrmInTmplMismatch":      "selectors",
	"XfrmInPolBlock":          "discard",
	"XfrmInHdrError":          "malformed",
	"XfrmInBufferError":       "malformed",
	"XfrmOutNoStates":         "no_sa",
	"XfrmAcquireError":        "no_sa",
	"XfrmOutPolBlock":         "discard",
	"XfrmOutStateExpired":     "expired",
	"XfrmOutStateSeqError":    "sequence",
	"XfrmInStateInvalid":      "expired",
	"XfrmOutStateInvalid":     "expired",
	"XfrmOutPolDead":          "no_policy",
	"XfrmFwdHdrError":         "malformed",
	"XfrmOutBundleGenError":   "send",
	"XfrmOutBundleCheckError": "send",
	"XfrmOutStateModeError":   "too_big",
}

// Drops returns the packets that the kernel's IPsec has dropped in the network
// namespace since New, by reason: those of other daemons there, too. A counter
// of /proc/net/xfrm_stat without a reason of the data plane in user space has its
// own name. What is above a limit of SetBandwidths is "bandwidth".
func (b *Backend) Drops() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	sum := map[string]uint64{}
	if b.closed {
		return sum
	}
	if b.countBandwidth(); b.aboveBandwidth != 0 {
		sum["bandwidth"] = b.aboveBandwidth
	}
	for name, n := range b.readStat() {
		n -= min(n, b.statStart[name])
		if name == "XfrmInNoStates" {
			n -= min(n, b.recovered)
		}
		if n == 0 {
			continue
		}
		reason, ok := statReasons[name]
		if !ok {
			reason = name
		}
		sum[reason] += n
	}
	return sum
}

// readStat reads /proc/net/xfrm_stat.
func (b *Backend) readStat() map[string]uint64 {
	counts := map[string]uint64{}
	if b.stat == nil {
		return counts
	}
	text, err := io.ReadAll(io.NewSectionReader(b.stat, 0, 1<<16))
	if err != nil {
		return counts
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		var n uint64
		if _, err := fmt.Sscan(strings.TrimSpace(value), &n); err == nil {
			counts[name] = n
		}
	}
	return counts
}
