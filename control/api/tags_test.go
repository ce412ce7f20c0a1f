package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func manyTags(n int) []object {
	tags := make([]object, n)
	for i := range tags {
		tags[i] = object{"key": fmt.Sprint("key", i), "value": "v"}
	}
	return tags
}

func TestTagsOfEveryType(t *testing.T) {
	b := newBench(t)
	connection, gateway, customerGateway := b.createConnection()
	for resource, id := range map[string]string{"vpn-gateway": gateway, "customer-gateway": customerGateway, "vpn-connection": connection} {
		t.Run(resource, func(t *testing.T) {
			b.t = t
			add := func(tags ...object) *answer {
				return b.call(http.MethodPost, path(resource, id, "tags", "create"), object{"tags": append([]object{}, tags...)})
			}
			remove := func(tags ...object) {
				t.Helper()
				b.call(http.MethodPost, path(resource, id, "tags", "delete"), object{"tags": append([]object{}, tags...)}).want(http.StatusNoContent)
			}
			want := func(tags ...object) {
				t.Helper()
				got := b.call(http.MethodGet, path(resource, id, "tags"), nil).want(http.StatusOK)
				if encoded(t, got.body) != encoded(t, object{"tags": append([]object{}, tags...)}) {
					t.Errorf("tags are %s, want %v", got.Text, tags)
				}
			}
			tag := func(key, value string) object { return object{"key": key, "value": value} }
			want()
			add(tag("owner", "net"), object{"key": "empty"}).want(http.StatusNoContent)
			want(tag("owner", "net"), tag("empty", ""))
			add(tag("owner", "ops/net"), tag("名", "值 1")).want(http.StatusNoContent) // replaces one
			want(tag("owner", "ops/net"), tag("empty", ""), tag("名", "值 1"))
			remove(tag("owner", "another"), object{"key": "unknown"}, object{"key": "名"})
			want(tag("owner", "ops/net"), tag("empty", ""))
			remove(tag("owner", "ops/net"))
			want(tag("empty", ""))
			add().want(http.StatusNoContent)
			remove()
			want(tag("empty", ""))

			add(manyTags(20)...).wantError(http.StatusBadRequest, "VPN.0001", "tags: an object has at most 20, this one would have 21")
			want(tag("empty", ""))
			add(manyTags(19)...).want(http.StatusNoContent)
			remove(manyTags(19)...)
			for _, test := range []struct {
				tags    []object
				message string
			}{
				{manyTags(21), "tags: must have at most 20 entries"},
				{[]object{{"value": "v"}}, "tags[0].key: is required"},
				{[]object{tag("", "v")}, "tags[0].key: must have 1 to 128 characters"},
				{[]object{tag(strings.Repeat("k", 129), "v")}, "tags[0].key: must have 1 to 128 characters"},
				{[]object{tag("k", strings.Repeat("v", 256))}, "tags[0].value: must have at most 255 characters"},
				{[]object{tag("a", ""), tag("a", "b")}, "tags[1].key: must be unique"},
				{[]object{tag("_sys_a", "")}, "tags[0].key: must not begin with _sys_"},
				{[]object{tag(" a", "")}, "tags[0].key: must not begin"},
				{[]object{tag("a*", "")}, "tags[0].key: may hold"},
				{[]object{tag("a", "<")}, "tags[0].value: may hold"},
			} {
				add(test.tags...).wantError(http.StatusBadRequest, "VPN.0001", test.message)
			}
			add(tag(strings.Repeat("k", 128), strings.Repeat("v", 255))).want(http.StatusNoContent)
			remove(tag(strings.Repeat("k", 128), strings.Repeat("v", 255)))
			want(tag("empty", ""))
			for _, body := range []any{nil, object{}, object{"tags": "x"}, `{"tags":[`} {
				b.call(http.MethodPost, path(resource, id, "tags", "create"), body).wantError(http.StatusBadRequest, "VPN.0001", "")
				b.call(http.MethodPost, path(resource, id, "tags", "delete"), body).wantError(http.StatusBadRequest, "VPN.0001", "")
			}
			tags := object{"tags": []object{tag("a", "")}}
			b.call(http.MethodPost, path(resource, vpcID, "tags", "create"), tags).wantError(http.StatusNotFound, "VPN.0004", "")
			b.call(http.MethodPost, path(resource, vpcID, "tags", "delete"), tags).wantError(http.StatusNotFound, "VPN.0004", "")
			b.call(http.MethodGet, path(resource, vpcID, "tags"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
		})
	}
	b.t = t
	// Nothing was worked on because of its tags.
	shown := b.call(http.MethodGet, path("vpn-connection", connection), nil).want(http.StatusOK)
	wantMembers(t, shown.at("vpn_connection"), object{"status": "DOWN", "tags": []object{{"key": "empty", "value": ""}}})
	for _, unknown := range []string{"vpn-connections", "connection-monitors", "p2c"} {
		b.call(http.MethodGet, path(unknown, "tags"), nil).wantError(http.StatusNotFound, "VPN.0004", "")
	}
}

func TestResourcesByTags(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ name, tags string }{
		{"Berlin-1", "site=berlin,env=prod"}, {"berlin-2", "site=berlin,env=test"}, {"paris", "site=paris,env=prod"}, {"rome", ""},
	} {
		var tags []object
		for _, tag := range strings.FieldsFunc(c.tags, func(r rune) bool { return r == ',' }) {
			key, value, _ := strings.Cut(tag, "=")
			tags = append(tags, object{"key": key, "value": value})
		}
		body := object{"id_value": "198.51.100.7", "name": c.name}
		if tags != nil {
			body["tags"] = tags
		}
		b.call(http.MethodPost, path("customer-gateways"), cgw(body)).want(http.StatusCreated)
	}
	filter := func(key string, values ...string) object {
		return object{"key": key, "values": append([]string{}, values...)}
	}
	name := func(value string) object {
		return object{"matches": []object{{"key": "resource_name", "value": value}}}
	}
	for _, test := range []struct {
		filter object
		names  string
	}{
		{object{}, "rome paris berlin-2 Berlin-1"},
		{object{"tags": []object{filter("site", "berlin")}}, "berlin-2 Berlin-1"},
		{object{"tags": []object{filter("site", "berlin", "paris")}}, "paris berlin-2 Berlin-1"},
		{object{"tags": []object{filter("site"), filter("env", "prod")}}, "paris Berlin-1"},
		{object{"tags": []object{filter("Site")}}, ""},
		{object{"without_any_tag": true}, "rome"},
		{object{"without_any_tag": "true", "tags": []object{filter("site")}}, "rome"},
		{object{"without_any_tag": "false", "tags": []object{filter("env", "test")}}, "berlin-2"},
		{object{"without_any_tag": false}, "rome paris berlin-2 Berlin-1"},
		{name("BERLIN"), "berlin-2 Berlin-1"},
		{name(""), ""},
		{with(name("1"), "tags", []object{filter("env", "prod")}), "Berlin-1"},
	} {
		a := b.call(http.MethodPost, path("customer-gateway", "resource-instances", "filter"), test.filter).want(http.StatusOK)
		var names []string
		for _, r := range a.list("resources") {
			names = append(names, r.(object)["resource_name"].(string))
			if detail, empty := r.(object)["resource_detail"].(object); !empty || len(detail) > 0 {
				t.Errorf("detail is %v", detail)
			}
		}
		if got := strings.Join(names, " "); got != test.names || a.body["total_count"] != float64(len(names)) {
			t.Errorf("%v: got %q of %v, want %q", test.filter, got, a.body["total_count"], test.names)
		}
		count := b.call(http.MethodPost, path("customer-gateway", "resource-instances", "count"), test.filter).want(http.StatusOK)
		if count.body["total_count"] != float64(len(names)) {
			t.Errorf("%v: counted %v, want %d", test.filter, count.body["total_count"], len(names))
		}
	}
	for query, want := range map[string]int{"limit=1": 1, "limit=1000": 4, "limit=3&offset=2": 2, "offset=4": 0, "offset=2147483647": 0, "offset=0": 4} {
		a := b.call(http.MethodPost, path("customer-gateway", "resource-instances", "filter?"+query), object{}).want(http.StatusOK)
		if l := a.list("resources"); len(l) != want || a.body["total_count"] != 4.0 {
			t.Errorf("%s: got %d of %v, want %d of 4", query, len(l), a.body["total_count"], want)
		}
	}
	for query, message := range map[string]string{
		"limit=0": "limit: must be from 1 to 1000", "limit=1001": "limit: must be from 1 to 1000", "offset=-1": "offset: must be from 0",
	} {
		b.call(http.MethodPost, path("customer-gateway", "resource-instances", "filter?"+query), object{}).
			wantError(http.StatusBadRequest, "VPN.0001", message)
	}
	for _, body := range []any{
		"[]",
		object{"without_any_tag": "yes"},
		object{"tags": []object{{"key": "a"}}},
		object{"tags": []object{filter("")}},
		object{"matches": []object{{"key": "resource_id", "value": "x"}}},
		object{"tags": []object{filter("a", strings.Repeat("v", 256))}},
		object{"tags": []object{filter("a", make([]string, 21)...)}},
		object{"tags": make([]object, 21)},
	} {
		for _, what := range []string{"filter", "count"} {
			b.call(http.MethodPost, path("customer-gateway", "resource-instances", what), body).wantError(http.StatusBadRequest, "VPN.0001", "")
		}
	}
	b.call(http.MethodPost, path("customer-gateway", "resource-instances", "count"), nil).want(http.StatusOK) // all of them
	project := b.call(http.MethodGet, path("customer-gateway", "tags"), nil).want(http.StatusOK)
	if got, want := encoded(t, project.body), encoded(t, object{"tags": []object{filter("env", "prod", "test"), filter("site", "berlin", "paris")}}); got != want {
		t.Errorf("project tags are %s, want %s", got, want)
	}
	if l := b.call(http.MethodGet, path("vpn-connection", "tags"), nil).want(http.StatusOK).list("tags"); len(l) != 0 {
		t.Errorf("connections have the tags %v", l)
	}
}

func TestQuotas(t *testing.T) {
	b := newBench(t)
	b.createConnection()
	b.createCustomerGateway("198.51.100.8")
	quotas := b.call(http.MethodGet, path("vpn", "quotas?type=vpn_gateway"), nil).want(http.StatusOK)
	if got, want := encoded(t, quotas.at("quotas", "resources")), encoded(t, []object{
		{"type": "vpn_gateway", "quota": 50, "used": 1},
		{"type": "customer_gateway", "quota": 100, "used": 2},
		{"type": "vpn_connection", "quota": 5000, "used": 1},
	}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// The quota shown is the one that is enforced.
	for range 98 {
		b.createCustomerGateway("198.51.100.9")
	}
	b.call(http.MethodPost, path("customer-gateways"), cgw(object{"id_value": "198.51.100.9"})).
		wantError(http.StatusBadRequest, "VPN.0001", "quota exceeded: customer gateways, at most 100")
}
