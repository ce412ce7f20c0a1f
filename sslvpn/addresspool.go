package sslvpn

import (
	"errors"
	"fmt"
	"net/netip"
)

// errPoolExhausted says that every block of the pool is taken or reserved.
var errPoolExhausted = errors.New("no free address in the pool")

// blockSize is the addresses of a /30 block (topology net30): network, client,
// peer and broadcast. A client can be given no less where the system it runs
// on knows no point-to-point links.
const blockSize = 4

// maxPoolBits bounds the pool: a table of its blocks is kept.
const maxPoolBits = 18

// addressPool lends the addresses of a network to clients. The first block is
// the server's own. It is not safe for concurrent use.
type addressPool struct {
	prefix   netip.Prefix
	base     ipNumber
	blocks   []block
	reserved map[uint32]bool   // blocks of static addresses, by index
	last     map[string]uint32 // the block that a user had last
	next     uint32            // where the search for a free block starts
}

// block is one /30. Its holder is who has it now, its user who had it last.
type block struct {
	taken bool
	user  string
}

// checkPool reports why a network cannot be a pool.
func checkPool(prefix netip.Prefix) error {
	switch {
	case !prefix.IsValid() || !prefix.Addr().Is4():
		return fmt.Errorf("pool %s: must be an IPv4 network", prefix)
	case prefix != prefix.Masked():
		return fmt.Errorf("pool %s: must be a network address, such as %s", prefix, prefix.Masked())
	case prefix.Bits() < 32-maxPoolBits || prefix.Bits() > 29:
		return fmt.Errorf("pool %s: must be of /%d to /29", prefix, 32-maxPoolBits)
	}
	return nil
}

// checkPool6 reports why a network of IPv6 cannot be given out beside a pool.
func checkPool6(prefix, pool netip.Prefix) error {
	switch {
	case !prefix.IsValid() || !prefix.Addr().Is6() || prefix.Addr().Is4In6():
		return fmt.Errorf("pool %s: must be an IPv6 network", prefix)
	case prefix != prefix.Masked():
		return fmt.Errorf("pool %s: must be a network address, such as %s", prefix, prefix.Masked())
	case prefix.Bits() < 64 || prefix.Bits() > 112 || 128-prefix.Bits() < 32-pool.Bits():
		return fmt.Errorf("pool %s: must be of /64 to /112, with as many addresses as %s has", prefix, pool)
	case special(addressNumber(prefix.Addr().Next())):
		return fmt.Errorf("pool %s: must be of global or unique local addresses", prefix)
	}
	return nil
}

// beside returns the address of IPv6 that goes with one of the pool: as far from
// the beginning of its own network.
func (p *addressPool) beside(pool6 netip.Prefix, a netip.Addr) netip.Addr {
	if !pool6.IsValid() {
		return netip.Addr{}
	}
	n := addressNumber(pool6.Addr())
	n.low += addressNumber(a).low - p.base.low
	return n.addr()
}

// newAddressPool returns a pool of which nothing is lent.
func newAddressPool(prefix netip.Prefix) (*addressPool, error) {
	if err := checkPool(prefix); err != nil {
		return nil, err
	}
	return &addressPool{
		prefix: prefix, base: addressNumber(prefix.Addr()),
		blocks:   make([]block, 1<<(30-prefix.Bits())),
		reserved: map[uint32]bool{}, last: map[string]uint32{}, next: 1,
	}, nil
}

// server returns the server's virtual address, the first host of the pool.
func (p *addressPool) server() netip.Addr { return p.at(1) }

// at returns an address by its distance from the beginning of the pool.
func (p *addressPool) at(offset uint64) netip.Addr {
	return ipNumber{low: p.base.low + offset}.addr()
}

// peerOf returns the other host of a client's block, which is its gateway.
func peerOf(client netip.Addr) netip.Addr { return client.Next() }

// index returns the block whose first host an address is.
func (p *addressPool) index(a netip.Addr) (uint32, error) {
	if !a.Is4() || !p.prefix.Contains(a) {
		return 0, fmt.Errorf("address %s: must be in the pool %s", a, p.prefix)
	}
	offset := addressNumber(a).low - p.base.low
	switch {
	case offset%blockSize != 1:
		return 0, fmt.Errorf("address %s: must be the first host of a /30 block, such as %s",
			a, p.at(offset/blockSize*blockSize+1))
	case offset < blockSize:
		return 0, fmt.Errorf("address %s: must not be of the first block of %s, which is the server's", a, p.prefix)
	}
	return uint32(offset / blockSize), nil
}

// reserve says which addresses are static and so are lent by acquireStatic
// only. Addresses that are lent stay so until their release. On an error
// nothing changes.
func (p *addressPool) reserve(static []netip.Addr) error {
	reserved := map[uint32]bool{}
	for _, a := range static {
		i, err := p.index(a)
		if err != nil {
			return err
		}
		reserved[i] = true
	}
	p.reserved = reserved
	return nil
}

// acquire lends an address to a user, the same as the last time when it is
// free. The error is errPoolExhausted.
func (p *addressPool) acquire(user string) (netip.Addr, error) {
	if i, ok := p.last[user]; ok && p.free(i) {
		return p.take(i, user), nil
	}
	n := uint32(len(p.blocks))
	// A block that nobody had comes before one that somebody may come back to.
	for _, fresh := range []bool{true, false} {
		for step := range n {
			i := (p.next + step) % n
			if p.free(i) && (!fresh || p.blocks[i].user == "") {
				p.next = (i + 1) % n
				return p.take(i, user), nil
			}
		}
	}
	return netip.Addr{}, errPoolExhausted
}

// acquireStatic lends a user's own address. It fails while it is lent.
func (p *addressPool) acquireStatic(user string, a netip.Addr) error {
	i, err := p.index(a)
	if err != nil {
		return err
	}
	if p.blocks[i].taken {
		return fmt.Errorf("address %s: is in use", a) // by whom is nothing for the client
	}
	p.take(i, user)
	return nil
}

// release takes an address back. Releasing again does nothing.
func (p *addressPool) release(a netip.Addr) {
	if i, err := p.index(a); err == nil {
		p.blocks[i].taken = false
	}
}

func (p *addressPool) free(i uint32) bool {
	return i != 0 && !p.blocks[i].taken && !p.reserved[i]
}

func (p *addressPool) take(i uint32, user string) netip.Addr {
	if before := p.blocks[i].user; before != user {
		if p.last[before] == i {
			delete(p.last, before) // so the table never outgrows the pool
		}
		if old, ok := p.last[user]; ok && !p.blocks[old].taken && p.blocks[old].user == user {
			p.blocks[old].user = ""
		}
	}
	p.blocks[i] = block{taken: true, user: user}
	p.last[user] = i
	return p.at(uint64(i)*blockSize + 1)
}
