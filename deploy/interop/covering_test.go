package interop

import "slices"

// unset stands for a choice that is still open.
const unset = -1

// pair is one choice each of two parameters a < b.
type pair struct{ a, av, b, bv int }

// coveringArray returns rows of one value each of parameters with the given
// numbers of values, so that any two values of two parameters that can be in one
// row are in at least one together. It is greedy, and the same for the same
// arguments. Allowed may be given rows with open choices, and refuses only what
// no choice can mend.
func coveringArray(sizes []int, allowed func(row []int) bool) [][]int {
	g := greedy{sizes: sizes, allowed: allowed, open: map[pair]bool{}}
	var order []pair
	for a := range sizes {
		for b := a + 1; b < len(sizes); b++ {
			for av := range sizes[a] {
				for bv := range sizes[b] {
					p := pair{a, av, b, bv}
					if g.complete(g.start(p)) != nil {
						order = append(order, p)
						g.open[p] = true
					}
				}
			}
		}
	}
	var rows [][]int
	for _, p := range order {
		if !g.open[p] {
			continue
		}
		row := g.complete(g.start(p))
		for a := range sizes {
			for b := a + 1; b < len(sizes); b++ {
				delete(g.open, pair{a, row[a], b, row[b]})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

type greedy struct {
	sizes   []int
	allowed func(row []int) bool
	open    map[pair]bool // pairs that no row has so far
	turn    int           // so that equally good values take turns
}

// start returns a row with the pair alone.
func (g *greedy) start(p pair) []int {
	row := make([]int, len(g.sizes))
	for i := range row {
		row[i] = unset
	}
	row[p.a], row[p.b] = p.av, p.bv
	return row
}

// complete fills a row with the values that meet most open pairs, and returns
// nil when it cannot be filled.
func (g *greedy) complete(row []int) []int {
	if !g.allowed(row) {
		return nil
	}
	next := g.next(row)
	if next == unset {
		return slices.Clone(row)
	}
	g.turn++
	values := make([]int, g.sizes[next])
	for i := range values {
		values[i] = (i + g.turn) % len(values)
	}
	gain := make([]int, len(values))
	for _, v := range values {
		gain[v] = g.gain(row, next, v)
	}
	slices.SortStableFunc(values, func(x, y int) int { return gain[y] - gain[x] })
	for _, v := range values {
		row[next] = v
		if full := g.complete(row); full != nil {
			row[next] = unset
			return full
		}
	}
	row[next] = unset
	return nil
}

// next returns the open parameter with most values.
func (g *greedy) next(row []int) int {
	best := unset
	for i, v := range row {
		if v == unset && (best == unset || g.sizes[i] > g.sizes[best]) {
			best = i
		}
	}
	return best
}

// gain counts the open pairs of a value with the values that the row has.
func (g *greedy) gain(row []int, i, v int) int {
	n := 0
	for j, w := range row {
		p := pair{i, v, j, w}
		if j < i {
			p = pair{j, w, i, v}
		}
		if j != i && w != unset && g.open[p] {
			n++
		}
	}
	return n
}
