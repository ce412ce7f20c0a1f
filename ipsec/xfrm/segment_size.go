package xfrm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// The kernel does not look at the maximum segment size of the TCP connections that it
// forwards (RFC 9293, section 3.7.1). So a SYN that comes from a tunnel or goes into
// one has it lowered to what the device of the tunnel takes, by a table of nftables
// for each IP version, which holds nothing else. Where the kernel has no nftables,
// hosts learn what fits from its ICMP errors.

const (
	tcpHeaderLen = 20
	// mapChunk is how many devices one message of nftables names: an attribute has at
	// most 64 KiB.
	mapChunk = 500
	// Registers of nftables: the first takes a name of a device.
	nameRegister  = unix.NFT_REG_1
	valueRegister = unix.NFT_REG_2
)

// segmentTable is the name of our tables.
const segmentTable = "vpngw_ipsec"

// ipVersion is a family of nftables with the octets of its IP header.
type ipVersion struct {
	family nftables.TableFamily
	header int
}

var ipVersions = []ipVersion{{nftables.TableFamilyIPv4, 20}, {nftables.TableFamilyIPv6, ipv6HeaderLen}}

// clampSegmentSize has SYNs lowered by the devices that there are. The caller holds mu.
func (b *Backend) clampSegmentSize() error {
	if b.abilities.SegmentSize != nil {
		return nil
	}
	mtus := map[uint32]int{}
	for ifID, i := range b.devices {
		mtus[ifID] = cmp.Or(i.MTU, defaultMTU)
	}
	if maps.Equal(mtus, b.clamped) {
		return nil
	}
	batch := &nftables.Conn{}
	for _, v := range ipVersions {
		if len(b.devices) == 0 {
			removeSegmentTable(batch, v, segmentTable)
			continue
		}
		if err := addSegmentTable(batch, v, segmentTable, b.devices); err != nil {
			return err
		}
	}
	if err := b.flush(batch); err != nil {
		return err
	}
	b.clamped = mtus
	return nil
}

// flush has the kernel carry a batch out, whole or not at all. Of its errors, one for
// each message, it returns the first.
func (b *Backend) flush(batch *nftables.Conn) error {
	err := b.inNamespace(batch.Flush)
	if first := unix.Errno(0); errors.As(err, &first) {
		err = first
	}
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// removeSegmentTable removes a table that may be there.
func removeSegmentTable(batch *nftables.Conn, v ipVersion, name string) {
	batch.DelTable(batch.AddTable(&nftables.Table{Family: v.family, Name: name}))
}

// addSegmentTable adds a table that lowers the SYNs of one IP version, in place of
// the one there.
func addSegmentTable(batch *nftables.Conn, v ipVersion, name string, devices map[uint32]ipsec.Interface) error {
	removeSegmentTable(batch, v, name)
	table := batch.AddTable(&nftables.Table{Family: v.family, Name: name})
	sizes := &nftables.Set{
		Table: table, Name: "segment_size", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeInetService,
	}
	if err := batch.AddSet(sizes, nil); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	var elements []nftables.SetElement
	for _, i := range devices {
		size := max(0, min(cmp.Or(i.MTU, defaultMTU), 1<<16-1)-v.header-tcpHeaderLen)
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, i.Name)
		elements = append(elements, nftables.SetElement{Key: key, Val: binary.BigEndian.AppendUint16(nil, uint16(size))})
	}
	for chunk := range slices.Chunk(elements, mapChunk) {
		if err := batch.SetAddElements(sizes, chunk); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	chain := batch.AddChain(&nftables.Chain{
		Table: table, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle,
	})
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		batch.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(isSYN, []expr.Any{
			&expr.Meta{Key: key, Register: nameRegister},
			&expr.Lookup{SourceRegister: nameRegister, DestRegister: valueRegister, IsDestRegSet: true, SetID: sizes.ID, SetName: sizes.Name},
			lowerSegmentSize,
		})})
	}
	// The path through the tunnel may take less than its device, as the kernel has
	// learnt from ICMP errors.
	batch.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(isSYN, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: nameRegister},
		&expr.Lookup{SourceRegister: nameRegister, DestRegister: valueRegister, IsDestRegSet: true, SetID: sizes.ID, SetName: sizes.Name},
		&expr.Rt{Key: expr.RtTCPMSS, Register: valueRegister},
		&expr.Byteorder{SourceRegister: valueRegister, DestRegister: valueRegister, Op: expr.ByteorderHton, Len: 2, Size: 2},
		lowerSegmentSize,
	})})
	return nil
}

// isSYN matches the segments that open a connection.
var isSYN = []expr.Any{
	&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nameRegister},
	&expr.Cmp{Op: expr.CmpOpEq, Register: nameRegister, Data: []byte{unix.IPPROTO_TCP}},
	&expr.Payload{DestRegister: nameRegister, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
	&expr.Bitwise{SourceRegister: nameRegister, DestRegister: nameRegister, Len: 1, Mask: []byte{tcpSYN | tcpRST}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpEq, Register: nameRegister, Data: []byte{tcpSYN}},
}

// Flags of a TCP segment.
const (
	tcpSYN = 0x02
	tcpRST = 0x04
)

// lowerSegmentSize writes the option of the maximum segment size, where there is one;
// the kernel never raises it.
var lowerSegmentSize = &expr.Exthdr{
	Op: expr.ExthdrOpTcpopt, Type: tcpOptionSegmentSize, Offset: 2, Len: 2, SourceRegister: valueRegister,
}

const tcpOptionSegmentSize = 2

// trySegmentSize makes such tables and removes them, in one step.
func (b *Backend) trySegmentSize() error {
	batch := &nftables.Conn{}
	for _, v := range ipVersions {
		if err := addSegmentTable(batch, v, probeName, map[uint32]ipsec.Interface{1: {Name: probeName}}); err != nil {
			return err
		}
	}
	if err := b.flush(batch); err != nil {
		return err
	}
	for _, v := range ipVersions {
		removeSegmentTable(batch, v, probeName)
	}
	return b.flush(batch)
}
