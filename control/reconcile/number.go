package reconcile

import "hash/fnv"

// numbers gives names numbers that stay the same over restarts: the hash of
// the name, moved on in the rare case that another name has it already. A
// number stays its name's until it is released.
type numbers struct {
	first, count uint32 // numbers are in [first, first+count)
	byName       map[string]uint32
	taken        map[uint32]string
}

func newNumbers(first, count uint32) *numbers {
	return &numbers{first: first, count: count, byName: make(map[string]uint32), taken: make(map[uint32]string)}
}

// of returns the number of a name. It gives zero when all are taken.
func (n *numbers) of(name string) uint32 {
	if number, ok := n.byName[name]; ok {
		return number
	}
	if uint64(len(n.taken)) >= uint64(n.count) {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	offset := h.Sum32() % n.count
	for {
		number := n.first + offset
		if _, taken := n.taken[number]; !taken {
			n.byName[name], n.taken[number] = number, name
			return number
		}
		offset = (offset + 1) % n.count
	}
}

// retain releases the numbers of all names but those that keep accepts.
func (n *numbers) retain(keep func(name string) bool) {
	for name, number := range n.byName {
		if !keep(name) {
			delete(n.byName, name)
			delete(n.taken, number)
		}
	}
}
