package control

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestCompareFields(t *testing.T) {
	long := `"` + strings.Repeat("x", maxFieldValue) + `"`
	for _, test := range []struct {
		name, before, after string
		want                string // as JSON
	}{
		{"created", "", `{"a":1,"b":{"c":"x"}}`, `[{"field":"a","after":1},{"field":"b.c","after":"x"}]`},
		{"deleted", `{"a":1}`, "", `[{"field":"a","before":1}]`},
		{"same", `{"a":1,"b":[1,2]}`, `{"b":[1,2],"a":1}`, `null`},
		{"one member", `{"a":1,"b":{"c":1,"d":1}}`, `{"a":1,"b":{"c":2,"d":1}}`, `[{"field":"b.c","before":1,"after":2}]`},
		{"list", `{"a":[1,2]}`, `{"a":[2]}`, `[{"field":"a","before":[1,2],"after":[2]}]`},
		{"member removed", `{"a":1,"b":1}`, `{"a":1}`, `[{"field":"b","before":1}]`},
		{"long value", `{"a":1}`, `{"a":` + long + `}`, `[{"field":"a","before":1,"after":"[1026 octets]"}]`},
		{"sealed", `{"sealed_psk":"AA"}`, `{"sealed_psk":"BB"}`, `[{"field":"psk","before":"[hidden]","after":"[hidden]"}]`},
		{"new secret", `{}`, `{"b":{"sealed_key":"BB"}}`, `[{"field":"b.key","after":"[hidden]"}]`},
		{"key beside its id", `{}`, `{"ppk":"a","ppk_id":"b"}`, `[{"field":"ppk","after":"[hidden]"},{"field":"ppk_id","after":"b"}]`},
		{"secret by its name", `{"user_password":"a"}`, `{"user_password":"b"}`, `[{"field":"user_password","before":"[hidden]","after":"[hidden]"}]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			fields, err := compareFields([]byte(test.before), []byte(test.after))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(fields); err != nil || string(got) != test.want {
				t.Errorf("got %s (%v), want %s", got, err, test.want)
			}
		})
	}
	if _, err := compareFields([]byte(`{"a":`), nil); err == nil {
		t.Error("what is not JSON was compared")
	}
}

// What is stored of an object and could be a secret, as octets are, must have
// a name that says so: it is hidden by that.
func TestSealedMembersAreNamed(t *testing.T) {
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		switch {
		case typ == reflect.TypeFor[Secret]() && !strings.HasSuffix(path, ".-"):
			t.Errorf("%s is a secret that is encoded", path)
		case typ == reflect.TypeFor[[]byte]() && !isSecretField(path):
			t.Errorf("%s holds octets, and nothing says that they are sealed", path)
		case typ.PkgPath() != "" && typ.PkgPath() != reflect.TypeFor[Meta]().PkgPath():
		case typ.Kind() == reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if f.IsExported() || f.Anonymous {
					walk(f.Type, path+"."+name)
				}
			}
		case typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Array || typ.Kind() == reflect.Map:
			walk(typ.Elem(), path)
		}
	}
	walk(reflect.TypeFor[Gateway](), "gateway")
	walk(reflect.TypeFor[CustomerGateway](), "customer_gateway")
	walk(reflect.TypeFor[storedConnection](), "connection")
}

func TestChangesAreGathered(t *testing.T) {
	w := newWorld(t)
	gateway, peer := w.gateway(), w.peer("198.51.100.1")
	ctx, changes := GatherChanges(t.Context())
	v, err := w.CreateConnection(ctx, project, connectionRequest(gateway.ID, peer.ID))
	if err != nil {
		t.Fatal(err)
	}
	all := changes.All()
	if len(all) != 1 || all[0].Kind != KindConnection || all[0].ID != v.ID || all[0].Action != ObjectCreated {
		t.Fatalf("gathered %+v", all)
	}
	w.settleConnection(v.ID, ConnectionActive)

	ctx, changes = GatherChanges(t.Context())
	if _, err := w.UpdateConnection(ctx, project, v.ID, ConnectionUpdate{Name: new("other")}); err != nil {
		t.Fatal(err)
	}
	if got := fieldNames(changes); got != "updated: generation name" {
		t.Errorf("a new name was noted as %q", got)
	}
	w.settleConnection(v.ID, ConnectionActive)
	ctx, changes = GatherChanges(t.Context())
	if _, err := w.UpdateConnection(ctx, project, v.ID, ConnectionUpdate{PSK: new(NewSecret("Another-Secret-2"))}); err != nil {
		t.Fatal(err)
	}
	if got := fieldNames(changes); got != "updated: generation psk" {
		t.Errorf("a new secret was noted as %q", got)
	}
	w.settleConnection(v.ID, ConnectionActive)
	ctx, changes = GatherChanges(t.Context())
	if _, err := w.UpdateConnection(ctx, project, v.ID, ConnectionUpdate{PSK: new(NewSecret("short"))}); err == nil || len(changes.All()) > 0 {
		t.Errorf("a refused change (%v) was noted: %+v", err, changes.All())
	}
	ctx, changes = GatherChanges(t.Context())
	if err := w.DeleteConnection(ctx, project, v.ID); err != nil {
		t.Fatal(err)
	}
	if got := fieldNames(changes); got != "updated: deletion_requested generation" {
		t.Errorf("the deletion was noted as %q", got)
	}
	other := w.peer("198.51.100.2")
	ctx, changes = GatherChanges(t.Context())
	if err := w.DeleteCustomerGateway(ctx, project, other.ID); err != nil {
		t.Fatal(err)
	}
	if got := fieldNames(changes); !strings.HasPrefix(got, "deleted: ") || !strings.Contains(got, "id_value") {
		t.Errorf("the deletion was noted as %q", got)
	}
}

// fieldNames returns what was done to the one object and to which members.
func fieldNames(c *Changes) string {
	all := c.All()
	if len(all) != 1 {
		return "not one object"
	}
	text := all[0].Action + ":"
	for _, f := range all[0].Fields {
		if f.Field != "updated_at" { // the clock of the tests stands still
			text += " " + f.Field
		}
	}
	return text
}
