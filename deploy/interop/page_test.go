package interop

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the results into docs/interop.md")

const pageFile = "../../docs/interop.md"

// passes is a cell's result on the page when it has no defect.
const passes = "passes"

// notRun is that of a cell that the peer does not speak.
const notRun = "-"

// columns are those of all tables; the additions have one more.
var columns = []string{"#", "IKE", "begins", "IKE cipher", "hash", "group", "ESP cipher", "hash", "PFS", "path", "style", "PPK"}

// section is a part of the page that one run writes.
type section struct{ name string }

var (
	swanUserspace  = section{"strongSwan with ESP in userspace"}
	swanAdditions  = section{"additions with strongSwan 5"}
	newerAdditions = section{"additions with strongSwan 6"}
	swanKernel     = section{"strongSwan with ESP in the kernel"}
	lswKernel      = section{"libreswan"}
	bothKernels    = section{"ESP in the kernel at both ends"}
	lswImpaired    = section{"libreswan's impairments"}
)

func (s section) begin() string { return "<!-- " + s.name + " -->\n" }
func (s section) end() string   { return "<!-- end of " + s.name + " -->\n" }

// result is what became of an array with peers of the versions.
type result struct {
	versions string
	array    []cell
	failed   map[int]string // by number of the cell
}

// table is the section's text for the results of an array, each with a column of
// its own.
func (s section) table(array []cell, results ...result) string {
	var b strings.Builder
	head := slices.Clone(columns)
	if array[0].PPK == "" {
		head = head[:len(head)-1]
	}
	for _, r := range results {
		fmt.Fprintf(&b, "%s: %d of %d cells pass.\n", r.versions, len(r.array)-len(r.failed), len(r.array))
		if len(results) == 1 {
			head = append(head, "result")
		} else {
			head = append(head, r.versions)
		}
	}
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, c := range array {
		words := make([]string, len(results))
		for i, r := range results {
			words[i] = passes
			if !slices.Contains(r.array, c) {
				words[i] = notRun
			}
			if defect, ok := r.failed[c.Number]; ok {
				words[i], _, _ = strings.Cut(defect, "\n")
			}
		}
		b.WriteString(row(c, words...))
	}
	return b.String()
}

func row(c cell, results ...string) string {
	return fmt.Sprintf("| %d | %s | %s |\n", c.Number, c, strings.Join(results, " | "))
}

// on returns the section's text on the page, and what is before and after.
func (s section) on(page string) (before, text, after string, err error) {
	before, rest, ok := strings.Cut(page, s.begin())
	text, after, end := strings.Cut(rest, s.end())
	if !ok || !end {
		return "", "", "", fmt.Errorf("the page lacks the section %q", s.name)
	}
	return before, text, after, nil
}

// write puts a table into the page.
func (s section) write(table string) error {
	page, err := os.ReadFile(pageFile)
	if err != nil {
		return err
	}
	before, _, after, err := s.on(string(page))
	if err != nil {
		return err
	}
	return os.WriteFile(pageFile, []byte(before+s.begin()+table+s.end()+after), 0o644)
}

// The page tells of the cells that are run, and says of none that it passes
// without that being checked: a run fails with any cell that does not.
func TestPageHasTheCells(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	for s, array := range map[section][]cell{
		swanUserspace: cells(), swanKernel: cells(), lswKernel: cells(libreswanLimits...), bothKernels: cells(kernelLimits...),
		swanAdditions: additions.cells(withoutMLKEM...), newerAdditions: additions.cells(),
	} {

		_, text, _, err := s.on(string(page))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range array {
			results := []string{passes}
			if s == swanUserspace { // twice
				results = append(results, passes)
				if !allows(c, newerLimits) {
					results[1] = notRun
				}
			}
			if !strings.Contains(text, row(c, results...)) {
				t.Errorf("%s: the page lacks the cell, or it does not pass: %d: %s; run with -update", s.name, c.Number, c)
			}
		}
		if have := strings.Count(text, "\n| ") - 1; have != len(array) {
			t.Errorf("%s: %d cells on the page, want %d", s.name, have, len(array))
		}
	}
}

// impairmentTable is the text of the impairments' section.
func impairmentTable() string {
	var b strings.Builder
	b.WriteString("| impairment | run with |\n|---|---|\n")
	for _, i := range impairments {
		how := strings.Join(i.values, ", ")
		switch {
		case i.why != "":
			how = "not run: " + i.why
		case how == "":
			how = "as it is"
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", i.name, strings.NewReplacer("<", "", ">", "").Replace(how))
	}
	return b.String()
}

// The page tells of each impairment how it is run, or why not.
func TestPageHasTheImpairments(t *testing.T) {
	if *update {
		if err := lswImpaired.write(impairmentTable()); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _, err := lswImpaired.on(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if text != impairmentTable() {
		t.Error("the page has another list: run with -update")
	}
}

// All pairs of choices that can go together are in some cell.
func TestArraysCoverAllPairs(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		all    choices
		limits []limit
	}{
		"strongSwan": {ofAPI, nil}, "libreswan": {ofAPI, libreswanLimits}, "kernel": {ofAPI, kernelLimits},
		"additions": {additions, nil}, "additions without ML-KEM": {additions, withoutMLKEM},
	} {
		all, limits := of.all, of.limits
		array := all.cells(limits...)
		for a := range all {
			for b := a + 1; b < len(all); b++ {
				for _, av := range all[a] {
					for _, bv := range all[b] {
						var open cell
						*open.fields()[a], *open.fields()[b] = av, bv
						covered := slices.ContainsFunc(array, func(c cell) bool { return *c.fields()[a] == av && *c.fields()[b] == bv })
						if !covered && all.completable(open, limits) {
							t.Errorf("%s: no cell has both %s and %s", name, av, bv)
						}
					}
				}
			}
		}
		for _, c := range array {
			if !allows(c, limits) {
				t.Errorf("%s: a limit forbids %s", name, c)
			}
		}
	}
}

// completable tells whether the open choices can be made.
func (all choices) completable(c cell, limits []limit) bool {
	if !allows(c, limits) {
		return false
	}
	for i, f := range c.fields()[:len(all)] {
		if *f != "" {
			continue
		}
		return slices.ContainsFunc(all[i], func(v string) bool {
			next := c
			*next.fields()[i] = v
			return all.completable(next, limits)
		})
	}
	return true
}

// An array of three parameters with a forbidden pair is small and complete.
func TestCoveringArray(t *testing.T) {
	t.Parallel()
	rows := coveringArray([]int{2, 3, 2}, func(row []int) bool { return row[0] != 1 || row[1] != 2 })
	if len(rows) > 6 {
		t.Errorf("%d rows, want at most 6", len(rows))
	}
	for _, r := range rows {
		if r[0] == 1 && r[1] == 2 || slices.Contains(r, unset) {
			t.Errorf("row %v", r)
		}
	}
	covered := map[pair]bool{}
	for _, r := range rows {
		covered[pair{0, r[0], 1, r[1]}], covered[pair{0, r[0], 2, r[2]}], covered[pair{1, r[1], 2, r[2]}] = true, true, true
	}
	if want := 2*3 - 1 + 2*2 + 3*2; len(covered) != want {
		t.Errorf("%d pairs, want %d", len(covered), want)
	}
}
