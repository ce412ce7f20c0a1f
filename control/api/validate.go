package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"

	"github.com/vpngw/vpngw/control"
)

// validationOptions leave authentication and defaults to us: defaults belong
// to the domain, where they depend on more than the document can say.
var validationOptions = &openapi3filter.Options{
	SkipSettingDefaults: true,
	AuthenticationFunc:  openapi3filter.NoopAuthenticationFunc,
}

// validate checks a request, whose body was read, against the document. The
// error names the member and the rule, and never holds the value.
func validate(r *http.Request, body []byte, op *operation) error {
	declared := op.route.Operation.RequestBody
	// Clients that have nothing to say leave a body out that may be absent.
	absent := declared != nil && !declared.Value.Required && len(body) == 0
	if declared != nil && !absent {
		if err := validateBody(r, body); err != nil {
			return err
		}
	}
	names := op.route.PathItem.Parameters
	path := make(map[string]string, len(names))
	for _, p := range names {
		path[p.Value.Name] = r.PathValue(p.Value.Name)
	}
	err := openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
		Request: r, PathParams: path, Route: op.route, Options: validationOptions,
	})
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return refusal(err)
	}
	if absent {
		return nil
	}
	return exactNames(body, op)
}

// exactNames refuses a member that differs from one of the document in the case
// of its letters alone. The validation does not know it, and the decoder would
// take it for that one.
func exactNames(body []byte, op *operation) error {
	if op.route.Operation.RequestBody == nil {
		return nil
	}
	media := op.route.Operation.RequestBody.Value.Content.Get("application/json")
	if media == nil || media.Schema == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return control.Invalid("body", "is not valid JSON")
	}
	if at, name := misspelt(v, media.Schema.Value, nil); at != nil {
		return control.Invalid(memberPath(at), "must be spelt %s", name)
	}
	return nil
}

// misspelt returns the path of the first such member, and its right name.
func misspelt(v any, schema *openapi3.Schema, at []string) (path []string, name string) {
	switch v := v.(type) {
	case []any:
		for i := range v {
			if schema.Items == nil {
				break
			}
			if path, name := misspelt(v[i], schema.Items.Value, append(slices.Clip(at), strconv.Itoa(i))); path != nil {
				return path, name
			}
		}
	case map[string]any:
		for _, member := range slices.Sorted(maps.Keys(v)) {
			here := append(slices.Clip(at), member)
			property := schema.Properties[member]
			if property != nil {
				if path, name := misspelt(v[member], property.Value, here); path != nil {
					return path, name
				}
				continue
			}
			for name := range schema.Properties {
				if strings.EqualFold(name, member) {
					return here, name
				}
			}
		}
	}
	return nil, ""
}

// validateBody makes sure that a body is one JSON value, so that what is
// validated and what is decoded is the same.
func validateBody(r *http.Request, body []byte) error {
	contentType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(contentType), "application/json") {
		return control.Invalid("header Content-Type", "must be application/json")
	}
	if len(body) == 0 {
		return control.Invalid("body", "is required")
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(json.RawMessage)); errors.As(err, &syntax) {
		return control.Invalid("body", "is not valid JSON at octet %d", syntax.Offset)
	}
	return nil
}

// refusal translates an error of the validation.
func refusal(err error) error {
	var req *openapi3filter.RequestError
	if !errors.As(err, &req) {
		return control.Invalid("request", "does not fit the document of the API")
	}
	field := "body"
	if req.Parameter != nil {
		field = req.Parameter.In + " parameter " + req.Parameter.Name
	}
	var schema *openapi3.SchemaError
	var parse *openapi3filter.ParseError
	switch {
	case errors.As(err, &schema):
		if path := memberPath(schema.JSONPointer()); path != "" {
			field = path
		}
		return control.Invalid(field, "%s", rule(schema))
	case errors.As(err, &parse):
		return control.Invalid(field, "cannot be read as %s", parameterType(req.Parameter))
	case errors.Is(err, openapi3filter.ErrInvalidRequired):
		return control.Invalid(field, "is required")
	case errors.Is(err, openapi3filter.ErrInvalidEmptyValue):
		return control.Invalid(field, "must not be empty")
	}
	return control.Invalid(field, "does not fit the document of the API")
}

func parameterType(p *openapi3.Parameter) string {
	if p != nil && p.Schema != nil && p.Schema.Value.Type != nil {
		return strings.Join(p.Schema.Value.Type.Slice(), " or ")
	}
	return "the document says"
}

// memberPath names a member of the object in a body. The name of the object
// itself, which every body begins with, is left out as it is in the errors of
// the domain, unless it is all there is or a list of objects.
func memberPath(pointer []string) string {
	isIndex := func(p string) bool { return p != "" && strings.Trim(p, "0123456789") == "" }
	if len(pointer) > 1 && !isIndex(pointer[1]) {
		pointer = pointer[1:]
	}
	var path strings.Builder
	for _, p := range pointer {
		switch {
		case isIndex(p):
			path.WriteString("[" + p + "]")
		case path.Len() > 0:
			path.WriteString("." + p)
		default:
			path.WriteString(p)
		}
	}
	return path.String()
}

// rule says which rule of the schema was broken, without the value.
func rule(e *openapi3.SchemaError) string {
	s := e.Schema
	switch e.SchemaField {
	case "required":
		return "is required"
	case "nullable":
		return "must not be null"
	case "type":
		return "must be of type " + strings.Join(s.Type.Slice(), " or ")
	case "enum":
		return fmt.Sprintf("must be one of %s", joinValues(s.Enum))
	case "pattern":
		return "must match " + s.Pattern
	case "minimum", "maximum":
		return "must be " + bounds(s.Min, s.Max)
	case "minLength", "maxLength":
		return "must have " + counts(s.MinLength, s.MaxLength) + " characters"
	case "minItems", "maxItems":
		return "must have " + counts(s.MinItems, s.MaxItems) + " entries"
	default:
		return "does not fit the document of the API (" + e.SchemaField + ")"
	}
}

func joinValues(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}

func bounds(lowest, highest *float64) string {
	switch {
	case lowest == nil:
		return fmt.Sprintf("at most %.0f", *highest)
	case highest == nil:
		return fmt.Sprintf("at least %.0f", *lowest)
	default:
		return fmt.Sprintf("from %.0f to %.0f", *lowest, *highest)
	}
}

func counts(lowest uint64, highest *uint64) string {
	switch {
	case highest == nil:
		return fmt.Sprintf("at least %d", lowest)
	case lowest == 0:
		return fmt.Sprintf("at most %d", *highest)
	default:
		return fmt.Sprintf("%d to %d", lowest, *highest)
	}
}
