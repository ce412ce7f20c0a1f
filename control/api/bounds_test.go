package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// variant is a value of a member or parameter with whether the document takes
// it.
type variant struct {
	name  string
	value any
	good  bool
}

// variants are the values around each bound of a schema, and one of a wrong
// type.
func variants(t *testing.T, s *openapi3.Schema) []variant {
	t.Helper()
	all := []variant{{"null", nil, s.Nullable}}
	text := func(n uint64) string { return strings.Repeat("a", int(n)) }
	items := func(n uint64) []any {
		list := []any{}
		for range n {
			list = append(list, sample(t, s.Items.Value))
		}
		return list
	}
	switch {
	case len(s.OneOf) > 0:
		return nil // each has a test of its own
	case s.Enum != nil:
		for _, v := range s.Enum {
			all = append(all, variant{fmt.Sprint(v), v, true})
		}
		all = append(all, variant{"no member of the enumeration", "no-such-word", false})
	case s.Type.Is("string"):
		all = append(all, variant{"a number", 1, false})
		if s.MinLength > 0 {
			all = append(all, variant{"shortest", text(s.MinLength), true}, variant{"too short", text(s.MinLength - 1), false})
		}
		if s.MaxLength != nil {
			all = append(all, variant{"longest", text(*s.MaxLength), true}, variant{"too long", text(*s.MaxLength + 1), false})
		}
		if s.Pattern != "" {
			all = append(all, variant{"outside of the pattern", text(s.MinLength) + "<", false})
		}
	case s.Type.Is("integer"):
		all = append(all, variant{"a text", "x", false})
		if s.Min != nil {
			all = append(all, variant{"lowest", int64(*s.Min), true}, variant{"too low", int64(*s.Min) - 1, false})
		}
		if s.Max != nil {
			all = append(all, variant{"highest", int64(*s.Max), true}, variant{"too high", int64(*s.Max) + 1, false})
		}
	case s.Type.Is("boolean"):
		all = append(all, variant{"true", true, true}, variant{"a text", "x", false})
	case s.Type.Is("array"):
		all = append(all, variant{"an object", object{}, false})
		if s.MinItems > 0 {
			all = append(all, variant{"fewest", items(s.MinItems), true}, variant{"too few", items(s.MinItems - 1), false})
		}
		if s.MaxItems != nil {
			all = append(all, variant{"most", items(*s.MaxItems), true}, variant{"too many", items(*s.MaxItems + 1), false})
		}
	case s.Type.Is("object"):
		all = append(all, variant{"a text", "x", false}, variant{"a list", []any{}, false})
	}
	return all
}

// sample is the smallest value that fits a schema.
func sample(t testing.TB, s *openapi3.Schema) any {
	t.Helper()
	switch {
	case len(s.OneOf) > 0:
		return sample(t, s.OneOf[0].Value)
	case s.Enum != nil:
		return s.Enum[0]
	case s.Type.Is("string"):
		return strings.Repeat("a", int(max(1, s.MinLength)))
	case s.Type.Is("integer"):
		if s.Min != nil {
			return int64(*s.Min)
		}
		return 0
	case s.Type.Is("boolean"):
		return false
	case s.Type.Is("array"):
		list := []any{}
		for range s.MinItems {
			list = append(list, sample(t, s.Items.Value))
		}
		return list
	case s.Type.Is("object"):
		o := object{}
		for _, name := range s.Required {
			o[name] = sample(t, s.Properties[name].Value)
		}
		return o
	}
	t.Fatalf("a schema of type %v", s.Type)
	return nil
}

// tryMembers tries all variants of all members below a schema. send gets a value
// in the place of the schema.
func tryMembers(t *testing.T, path string, s *openapi3.Schema, try func(path string, value any, good bool)) {
	t.Helper()
	for _, v := range variants(t, s) {
		try(path+" "+v.name, v.value, v.good)
	}
	if s.Type.Is("object") && len(s.OneOf) == 0 {
		base, _ := sample(t, s).(object)
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			tryMembers(t, path+"."+name, s.Properties[name].Value, func(path string, value any, good bool) {
				o := maps.Clone(base)
				o[name] = value
				try(path, o, good)
			})
		}
		for _, name := range s.Required {
			o := maps.Clone(base)
			delete(o, name)
			try(path+" without "+name, o, false)
		}
	}
	if s.Type.Is("array") && len(s.OneOf) == 0 {
		tryMembers(t, path+"[0]", s.Items.Value, func(path string, value any, good bool) { try(path, []any{value}, good) })
	}
}

// Every member and parameter of every operation is taken up to its bounds and
// refused beyond them, and so are missing ones and those of a wrong type.
func TestBoundsOfEveryMember(t *testing.T) {
	operations, err := document()
	check(t, err)
	tried := 0
	for _, op := range operations {
		t.Run(op.id, func(t *testing.T) {
			attempt := func(what string, query url.Values, body []byte, good bool) {
				t.Helper()
				tried++
				r, _ := request(t, op.route.Method, "/?"+query.Encode(), string(body))
				for _, p := range op.route.PathItem.Parameters {
					r.SetPathValue(p.Value.Name, fmt.Sprint(sample(t, p.Value.Schema.Value)))
				}
				for _, p := range op.route.Operation.Parameters {
					if p.Value.In == openapi3.ParameterInHeader && p.Value.Required {
						r.Header.Set(p.Value.Name, "x")
					}
				}
				err := validate(r, body, op)
				if (err == nil) != good {
					t.Errorf("%s: %s?%s: got %v, want it to be taken: %v", what, body, query.Encode(), err, good)
				}
				if err != nil && strings.Contains(err.Error(), "does not fit the document") && !strings.Contains(what, "without_any_tag") {
					t.Errorf("%s: the refusal does not say what is wrong: %v", what, err)
				}
			}
			var valid []byte
			if b := op.route.Operation.RequestBody; b != nil {
				schema := b.Value.Content.Get("application/json").Schema.Value
				encode := func(v any) []byte {
					text, err := json.Marshal(v)
					check(t, err)
					return text
				}
				valid = encode(sample(t, schema))
				attempt("smallest", nil, valid, true)
				attempt("no body", nil, nil, !b.Value.Required)
				for _, malformed := range []string{"{", `{"a":}`, "{}{}", "\xff", `"x"`, "1", "[]", "null"} {
					attempt("malformed", nil, []byte(malformed), false)
				}
				tryMembers(t, "body", schema, func(path string, value any, good bool) { attempt(path, nil, encode(value), good) })
			}
			for _, p := range op.route.Operation.Parameters {
				if p.Value.In != openapi3.ParameterInQuery || p.Value.Schema.Value.Type.Is("array") {
					continue
				}
				for _, v := range variants(t, p.Value.Schema.Value) {
					if text, isText := v.value.(string); v.value == nil || isText && text == "" || v.name == "a number" {
						continue // means that it is absent, or is a text in a query
					}
					attempt(p.Value.Name+" "+v.name, url.Values{p.Value.Name: {fmt.Sprint(v.value)}}, valid, v.good)
				}
			}
		})
	}
	if tried < 1000 {
		t.Errorf("only %s variants were tried", strconv.Itoa(tried))
	}
}
