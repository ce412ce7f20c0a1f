package api

import (
	"bytes"
	_ "embed" // for the template
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
)

// referencePage is the template of the page that shows the document to people.
//
//go:embed reference.html.tmpl
var referencePage string

// reference renders the page. It needs nothing but itself: no script, no style,
// font or image from elsewhere.
var reference = sync.OnceValues(func() ([]byte, error) {
	operations, err := loadOperations()
	if err != nil {
		return nil, err
	}
	page, err := template.New("reference").Parse(referencePage)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := page.Execute(&out, newReferenceView(operations)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
})

// serveReference answers GET /docs.
func serveReference(w http.ResponseWriter, _ *http.Request) {
	page, err := reference()
	if err != nil {
		http.Error(w, "the page cannot be rendered; the document is at /openapi.yaml", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	_, _ = w.Write(page) // a client that has gone needs no answer
}

// referenceView is what the template shows.
type referenceView struct {
	Title, Version, Description string
	Groups                      []referenceGroup
}

type referenceGroup struct {
	Name, Anchor, Description string
	Operations                []referenceOperation
}

type referenceOperation struct {
	ID, Method, Path     string
	Summary, Description string
	Permission           string // empty: none is needed
	Public               bool
	Parameters           []referenceMember
	Body                 []referenceMember
	Answers              []referenceAnswer
}

type referenceAnswer struct {
	Status, Description string
	Members             []referenceMember
}

// referenceMember is a parameter, or a member of a body with those below it.
type referenceMember struct {
	Name, Type, Rules, Description string
	Required                       bool
	Members                        []referenceMember
}

func newReferenceView(operations map[string]*operation) referenceView {
	var view referenceView
	byTag := map[string][]*operation{}
	for _, op := range operations {
		doc := op.route.Spec
		if view.Title == "" {
			view = referenceView{Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description}
			for _, tag := range doc.Tags {
				view.Groups = append(view.Groups, referenceGroup{
					Name: tag.Name, Anchor: strings.ReplaceAll(tag.Name, " ", "-"), Description: tag.Description,
				})
			}
		}
		for _, tag := range op.route.Operation.Tags {
			byTag[tag] = append(byTag[tag], op)
		}
	}
	for i := range view.Groups {
		g := &view.Groups[i]
		slices.SortFunc(byTag[g.Name], func(a, b *operation) int {
			return strings.Compare(a.route.Path+" "+methodOrder(a), b.route.Path+" "+methodOrder(b))
		})
		for _, op := range byTag[g.Name] {
			g.Operations = append(g.Operations, describeOperation(op))
		}
	}
	return view
}

// methodOrder puts the methods of a path in the order of an object's life.
func methodOrder(o *operation) string {
	return fmt.Sprint(slices.Index([]string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodDelete}, o.route.Method))
}

func describeOperation(o *operation) referenceOperation {
	doc := o.route.Operation
	r := referenceOperation{
		ID: o.id, Method: o.route.Method, Path: o.route.Path, Summary: doc.Summary, Description: doc.Description,
		Permission: o.permission, Public: o.public,
	}
	for _, p := range slices.Concat(o.route.PathItem.Parameters, doc.Parameters) {
		m := describeSchema(p.Value.Name, p.Value.Schema.Value, p.Value.Required, 0)
		m.Name += " (" + p.Value.In + ")"
		if p.Value.Description != "" {
			m.Description = p.Value.Description
		}
		r.Parameters = append(r.Parameters, m)
	}
	if doc.RequestBody != nil {
		r.Body = membersOf(doc.RequestBody.Value.Content)
	}
	for _, status := range slices.Sorted(maps.Keys(doc.Responses.Map())) {
		if status == "default" {
			continue // errors look alike everywhere
		}
		answer := doc.Responses.Value(status).Value
		a := referenceAnswer{Status: status, Members: membersOf(answer.Content)}
		if answer.Description != nil {
			a.Description = *answer.Description
		}
		r.Answers = append(r.Answers, a)
	}
	return r
}

func membersOf(content openapi3.Content) []referenceMember {
	media := content.Get("application/json")
	if media == nil || media.Schema == nil {
		return nil
	}
	return describeSchema("", media.Schema.Value, true, 0).Members
}

// maxNesting is how deep objects are shown.
const maxNesting = 10

func describeSchema(name string, s *openapi3.Schema, required bool, depth int) referenceMember {
	m := referenceMember{
		Name: name, Type: strings.Join(s.Type.Slice(), " or "), Rules: describeRules(s),
		Description: strings.TrimSpace(s.Description), Required: required,
	}
	object := s
	if s.Type.Is("array") && s.Items != nil {
		object = s.Items.Value
		m.Type = "list of " + strings.Join(object.Type.Slice(), " or ")
		if !object.Type.Is("object") {
			m.Rules = strings.TrimPrefix(m.Rules+"; each "+describeRules(object), "; ")
			m.Rules = strings.TrimSuffix(m.Rules, "; each ")
		}
	}
	if depth >= maxNesting {
		return m
	}
	for _, member := range slices.Sorted(maps.Keys(object.Properties)) {
		m.Members = append(m.Members, describeSchema(member, object.Properties[member].Value, slices.Contains(object.Required, member), depth+1))
	}
	return m
}

// describeRules says what values a schema takes.
func describeRules(s *openapi3.Schema) string {
	var rules []string
	if s.Enum != nil {
		rules = append(rules, joinValues(s.Enum))
	}
	if s.Min != nil || s.Max != nil {
		rules = append(rules, bounds(s.Min, s.Max))
	}
	if s.MinLength > 0 || s.MaxLength != nil {
		rules = append(rules, counts(s.MinLength, s.MaxLength)+" characters")
	}
	if s.MinItems > 0 || s.MaxItems != nil {
		rules = append(rules, counts(s.MinItems, s.MaxItems)+" entries")
	}
	if s.Pattern != "" {
		rules = append(rules, "matches "+s.Pattern)
	}
	if s.Default != nil {
		rules = append(rules, fmt.Sprintf("default %v", s.Default))
	}
	return strings.Join(rules, "; ")
}
