package sa

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// The collision model branches at every state of two machines, so it needs
// copies of them, and must know when two are the same. Both are taken from
// the memory of the machines by their types, so that a field that is added to a
// machine is part of both at once. What other packages define (ciphers, private
// keys of the standard library) does not change once made: copies share it, and it
// is told apart by the keys beside it.

// module is the prefix of the packages whose structures are copied.
const module = "github.com/vpngw/vpngw/"

var (
	timeType = reflect.TypeFor[time.Time]()
	coreType = reflect.TypeFor[core]()
	// shared are types of ours of which all copies have one, without an effect on
	// whether two states are the same: each machine stays with its end.
	shared = map[reflect.Type]bool{
		reflect.TypeFor[Env]():         true,
		reflect.TypeFor[modelRandom](): true,
		reflect.TypeFor[modelWorld]():  true,
	}
	// named are types of ours of which all copies have one, and that are not changed.
	named = map[reflect.Type]bool{
		reflect.TypeFor[Connection](): true,
	}
	// unseen are fields that do not tell two states apart: they only count, or follow from others.
	unseen = map[string]bool{"drops": true, "now": true, "wakes": true}
)

// ours reports whether the structures of a type are copied.
func ours(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && strings.HasPrefix(t.PkgPath(), module) && !shared[t] && !named[t]
}

// plan is what is to be done with values of one type.
type plan struct {
	// fix replaces, in a copy octet by octet, all references by copies; nil: there are none.
	fix func(c *copier, at unsafe.Pointer)
	// write appends what tells a value apart.
	write func(d *digester, at unsafe.Pointer)
	core  *uintptr // where a machine has its core, if it is one
}

var plans sync.Map // of reflect.Type to *plan

// planOf returns the plan of a type. That of a recursive one is found while it
// is made, so its functions look it up when they run.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := makePlan(t)
	plans.Store(t, p)
	return p
}

// place is what a pointer of one type points at.
type place struct {
	at unsafe.Pointer
	t  reflect.Type
}

// copier makes copies of graphs, one after the other.
type copier struct {
	from []place // what has a copy
	to   []unsafe.Pointer
}

// digester writes what tells graphs apart, one after the other.
type digester struct {
	now  time.Time
	seen []place
	out  []byte
}

// copyOf returns a copy of a graph.
func copyOf[T any](c *copier, v *T) *T {
	c.from, c.to = c.from[:0], c.to[:0]
	return (*T)(c.object(reflect.TypeFor[T](), unsafe.Pointer(v)))
}

// digestOf returns what is the same for two graphs that behave the same from now on.
func digestOf[T any](d *digester, v *T, now time.Time) [16]byte {
	d.now, d.seen, d.out = now, d.seen[:0], d.out[:0]
	planOf(reflect.TypeFor[T]()).write(d, unsafe.Pointer(v))
	sum := sha256.Sum256(d.out)
	return [16]byte(sum[:16])
}

// object copies what a pointer points at, once.
func (c *copier) object(t reflect.Type, at unsafe.Pointer) unsafe.Pointer {
	if i := slices.Index(c.from, place{at, t}); i >= 0 {
		return c.to[i]
	}
	v := reflect.New(t)
	v.Elem().Set(reflect.NewAt(t, at).Elem())
	to := v.UnsafePointer()
	c.from, c.to = append(c.from, place{at, t}), append(c.to, to)
	p := planOf(t)
	if p.core != nil { // there are pointers to it
		c.from, c.to = append(c.from, place{unsafe.Add(at, *p.core), coreType}), append(c.to, unsafe.Add(to, *p.core))
	}
	if p.fix != nil {
		p.fix(c, to)
	}
	return to
}

func makePlan(t reflect.Type) *plan {
	switch t.Kind() {
	case reflect.Pointer:
		return pointerPlan(t)
	case reflect.Struct:
		return structPlan(t)
	case reflect.Slice:
		return slicePlan(t)
	case reflect.Array:
		return arrayPlan(t)
	case reflect.Interface:
		return interfacePlan(t)
	case reflect.String:
		return &plan{write: func(d *digester, at unsafe.Pointer) {
			s := *(*string)(at)
			d.number(uint64(len(s)))
			d.out = append(d.out, s...)
		}}
	case reflect.Func, reflect.UnsafePointer:
		return &plan{write: func(*digester, unsafe.Pointer) {}}
	case reflect.Map, reflect.Chan:
		panic(fmt.Sprintf("the model cannot copy a %s", t))
	default:
	}
	size := t.Size()
	return &plan{write: func(d *digester, at unsafe.Pointer) {
		d.out = append(d.out, unsafe.Slice((*byte)(at), size)...)
	}}
}

func (d *digester) number(n uint64) { d.out = binary.AppendUvarint(d.out, n) }

func pointerPlan(t reflect.Type) *plan {
	elem := t.Elem()
	switch {
	case named[elem]:
		return &plan{write: func(d *digester, at unsafe.Pointer) { d.number(uint64(*(*uintptr)(at))) }}
	case elem != coreType && !ours(elem):
		return &plan{write: func(*digester, unsafe.Pointer) {}}
	}
	target := sync.OnceValue(func() *plan { return planOf(elem) })
	return &plan{
		fix: func(c *copier, at unsafe.Pointer) {
			if p := (*unsafe.Pointer)(at); *p != nil {
				*p = c.object(elem, *p)
			}
		},
		write: func(d *digester, at unsafe.Pointer) {
			p := *(*unsafe.Pointer)(at)
			if p == nil || elem == coreType { // that of the machine
				d.number(0)
				return
			}
			i := slices.Index(d.seen, place{p, elem})
			if i >= 0 {
				d.number(uint64(i + 1))
				return
			}
			d.seen = append(d.seen, place{p, elem})
			d.number(uint64(len(d.seen)))
			target().write(d, p)
		},
	}
}

func structPlan(t reflect.Type) *plan {
	if t == timeType {
		return &plan{write: func(d *digester, at unsafe.Pointer) {
			if when := *(*time.Time)(at); when.IsZero() {
				d.out = append(d.out, 0)
			} else {
				d.out = binary.AppendVarint(append(d.out, 1), int64(when.Sub(d.now)))
			}
		}}
	}
	type part struct {
		offset uintptr
		*plan
	}
	var fixed, written []part
	var within *uintptr
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == coreType {
			within = &f.Offset
		}
		p := part{f.Offset, planOf(f.Type)}
		if p.fix != nil {
			fixed = append(fixed, p)
		}
		if !unseen[f.Name] {
			written = append(written, p)
		}
	}
	p := &plan{core: within, write: func(d *digester, at unsafe.Pointer) {
		for _, f := range written {
			f.write(d, unsafe.Add(at, f.offset))
		}
	}}
	if len(fixed) > 0 {
		p.fix = func(c *copier, at unsafe.Pointer) {
			for _, f := range fixed {
				f.fix(c, unsafe.Add(at, f.offset))
			}
		}
	}
	return p
}

func slicePlan(t reflect.Type) *plan {
	elem := t.Elem()
	size := elem.Size()
	if elem.Kind() == reflect.Uint8 {
		return &plan{
			fix: func(_ *copier, at unsafe.Pointer) {
				if b := (*[]byte)(at); *b != nil {
					*b = append(make([]byte, 0, len(*b)), *b...)
				}
			},
			write: func(d *digester, at unsafe.Pointer) {
				b := *(*[]byte)(at)
				d.number(uint64(len(b)))
				d.out = append(d.out, b...)
			},
		}
	}
	inner := planOf(elem)
	type header struct {
		data     unsafe.Pointer
		len, cap int
	}
	return &plan{
		fix: func(c *copier, at unsafe.Pointer) {
			h := (*header)(at)
			if h.data == nil {
				return
			}
			to := reflect.MakeSlice(t, h.len, h.len)
			reflect.Copy(to, reflect.NewAt(t, at).Elem())
			h.data, h.cap = to.UnsafePointer(), h.len
			if inner.fix != nil {
				for i := range h.len {
					inner.fix(c, unsafe.Add(h.data, uintptr(i)*size))
				}
			}
		},
		write: func(d *digester, at unsafe.Pointer) {
			h := (*header)(at)
			d.number(uint64(h.len))
			for i := range h.len {
				inner.write(d, unsafe.Add(h.data, uintptr(i)*size))
			}
		},
	}
}

func arrayPlan(t reflect.Type) *plan {
	inner, size, n := planOf(t.Elem()), t.Elem().Size(), t.Len()
	p := &plan{write: func(d *digester, at unsafe.Pointer) {
		for i := range n {
			inner.write(d, unsafe.Add(at, uintptr(i)*size))
		}
	}}
	if inner.fix != nil {
		p.fix = func(c *copier, at unsafe.Pointer) {
			for i := range n {
				inner.fix(c, unsafe.Add(at, uintptr(i)*size))
			}
		}
	}
	return p
}

// interfacePlan is for what stands in an interface: a pointer, or a value without
// references.
func interfacePlan(t reflect.Type) *plan {
	return &plan{
		fix: func(c *copier, at unsafe.Pointer) {
			v := reflect.NewAt(t, at).Elem()
			if v.IsNil() {
				return
			}
			inside := v.Elem()
			if inside.Kind() != reflect.Pointer {
				if ours(inside.Type()) && planOf(inside.Type()).fix != nil {
					panic(fmt.Sprintf("the model cannot copy a %s in an interface", inside.Type()))
				}
				return
			}
			if planOf(inside.Type()).fix != nil {
				// An interface is its type and, of what is a pointer, the pointer.
				data := (*unsafe.Pointer)(unsafe.Add(at, unsafe.Sizeof(uintptr(0))))
				*data = c.object(inside.Type().Elem(), *data)
			}
		},
		write: func(d *digester, at unsafe.Pointer) {
			v := reflect.NewAt(t, at).Elem()
			if v.IsNil() {
				d.number(0)
				return
			}
			inside := v.Elem()
			d.number(uint64(*(*uintptr)(at))) // its type
			if inside.Kind() == reflect.Pointer {
				p := inside.UnsafePointer()
				planOf(inside.Type()).write(d, unsafe.Pointer(&p))
			}
		},
	}
}
