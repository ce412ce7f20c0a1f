package control

import (
	"fmt"
	"strings"
	"testing"
)

func policyRequest(destinations ...string) AccessPolicyCreate {
	return AccessPolicyCreate{Name: new("policy-001"), GroupID: new(defaultGroup), Destinations: destinations}
}

func TestAccessPolicyFromCreationToDeletion(t *testing.T) {
	w := userWorld(t)
	ctx := t.Context()
	g := w.addGroup("group-1")
	a, err := w.CreateAccessPolicy(ctx, project, serverOfUsers, AccessPolicyCreate{
		Name: new("policy-001"), GroupID: &g.ID, Description: new("访问策略1"), Destinations: []string{"172.16.0.0/24", "172.16.1.9/24"},
	})
	wantP2C(t, err, "")
	v, err := w.ShowAccessPolicy(ctx, project, serverOfUsers, a.ID)
	if err != nil || v.Name != "policy-001" || v.Type != TypeCustom || v.GroupID != g.ID || v.GroupName != "group-1" || v.Description != "访问策略1" ||
		fmt.Sprint(v.Destinations) != "[172.16.0.0/24 172.16.1.0/24]" {
		t.Errorf("got %+v, %v", v, err)
	}
	v, err = w.UpdateAccessPolicy(ctx, project, serverOfUsers, a.ID, AccessPolicyUpdate{
		Name: &a.Name, GroupID: &a.GroupID, Description: &a.Description, Destinations: []string{"172.16.0.0/24", "172.16.1.0/24"},
	})
	if err != nil || v.Generation != 1 {
		t.Errorf("got %+v, %v, want no change", v, err)
	}
	v, err = w.UpdateAccessPolicy(ctx, project, serverOfUsers, a.ID, AccessPolicyUpdate{
		Name: new("new"), GroupID: new(defaultGroup), Description: new(""), Destinations: []string{"0.0.0.0/0"},
	})
	if err != nil || v.Name != "new" || v.GroupName != "default" || v.Description != "" || fmt.Sprint(v.Destinations) != "[0.0.0.0/0]" || v.Generation != 2 {
		t.Errorf("got %+v, %v", v, err)
	}
	l, err := w.ListAccessPolicies(ctx, project, serverOfUsers, Page{})
	if err != nil || l.Total != 2 || l.Items[0].ID != a.ID || l.Items[1].Type != TypeDefault {
		t.Errorf("got %+v, %v", l, err)
	}
	wantP2C(t, w.DeleteAccessPolicy(ctx, project, serverOfUsers, a.ID), "")
	_, err = w.ShowAccessPolicy(ctx, project, serverOfUsers, a.ID)
	wantP2C(t, err, "VPN.1401")
}

func TestAccessPolicyRules(t *testing.T) {
	w := userWorld(t)
	networks := func(n int) []string { return many(n, func(i int) string { return fmt.Sprintf("10.%d.0.0/16", i) }) }
	for _, test := range []struct {
		name string
		edit func(*AccessPolicyCreate)
		code string
		word string
	}{
		{"no name", func(r *AccessPolicyCreate) { r.Name = nil }, CodeInvalid, "name: is required"},
		{"empty name", func(r *AccessPolicyCreate) { r.Name = new("") }, CodeInvalid, "name: must have 1 to 64"},
		{"longest name", func(r *AccessPolicyCreate) { r.Name = new(strings.Repeat("a", 64)) }, "", ""},
		{"long name", func(r *AccessPolicyCreate) { r.Name = new(strings.Repeat("a", 65)) }, CodeInvalid, "name: must have 1 to 64"},
		{"name with a dot", func(r *AccessPolicyCreate) { r.Name = new("a.b") }, CodeInvalid, "name: may hold"},
		{"no group", func(r *AccessPolicyCreate) { r.GroupID = nil }, CodeInvalid, "user_group_id: is required"},
		{"empty group", func(r *AccessPolicyCreate) { r.GroupID = new("") }, CodeInvalid, "user_group_id: is required"},
		{"unknown group", func(r *AccessPolicyCreate) { r.GroupID = new(nobody) }, "VPN.1301", ""},
		{"empty description", func(r *AccessPolicyCreate) { r.Description = new("") }, "", ""},
		{"long description", func(r *AccessPolicyCreate) { r.Description = new(strings.Repeat("a", 65)) }, CodeInvalid, "description"},
		{"no destinations", func(r *AccessPolicyCreate) { r.Destinations = nil }, CodeInvalid, "dest_ip_cidrs: is required"},
		{"empty destinations", func(r *AccessPolicyCreate) { r.Destinations = []string{} }, CodeInvalid, "dest_ip_cidrs: must not be empty"},
		{"most destinations", func(r *AccessPolicyCreate) { r.Destinations = networks(10) }, "", ""},
		{"too many destinations", func(r *AccessPolicyCreate) { r.Destinations = networks(11) }, "VPN.1402", ""},
		{"address", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.1"} }, "VPN.1403", "block 10.0.0.1 is invalid"},
		{"long prefix", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.0/33"} }, "VPN.1403", "10.0.0.0/33"},
		{"one host", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.1/32"} }, "", ""},
		{"IPv6", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.0/8", "2001:db8::/32"} }, "VPN.1403", "dest_ip_cidrs[1]"},
		{"text", func(r *AccessPolicyCreate) { r.Destinations = []string{"<script>"} }, "VPN.1403", "dest_ip_cidrs[0]"},
		{"twice", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.0/8", "10.0.0.0/8"} }, "VPN.1404", "Duplicate destination CIDR block 10.0.0.0/8"},
		{"twice with host bits", func(r *AccessPolicyCreate) { r.Destinations = []string{"10.0.0.0/8", "10.1.2.3/8"} }, "VPN.1404", "10.0.0.0/8"},
		{"overlap", func(r *AccessPolicyCreate) { r.Destinations = []string{"192.168.0.0/16", "192.168.34.0/24"} }, "", ""},
		{"everything", func(r *AccessPolicyCreate) { r.Destinations = []string{"0.0.0.0/0"} }, "", ""},
		{"half of everything", func(r *AccessPolicyCreate) { r.Destinations = []string{"0.0.0.0/1"} }, "VPN.1405", "0.0.0.0/1 is unavailable"},
		{"this network", func(r *AccessPolicyCreate) { r.Destinations = []string{"0.1.0.0/16"} }, "VPN.1405", ""},
		{"loopback", func(r *AccessPolicyCreate) { r.Destinations = []string{"127.0.0.1/32"} }, "VPN.1405", ""},
		{"below multicast", func(r *AccessPolicyCreate) { r.Destinations = []string{"223.255.255.0/24"} }, "", ""},
		{"multicast", func(r *AccessPolicyCreate) { r.Destinations = []string{"224.0.0.0/24"} }, "VPN.1405", ""},
		{"reserved", func(r *AccessPolicyCreate) { r.Destinations = []string{"255.255.255.255/32"} }, "VPN.1405", ""},
		{"link local", func(r *AccessPolicyCreate) { r.Destinations = []string{"169.254.169.254/32"} }, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := policyRequest("192.168.1.0/24")
			test.edit(&req)
			_, err := w.CreateAccessPolicy(t.Context(), project, serverOfUsers, req)
			wantP2C(t, err, test.code, test.word)
		})
	}
	a := w.addPolicy(defaultGroup)
	for name, update := range map[string]AccessPolicyUpdate{
		CodeInvalid: {Destinations: []string{}}, "VPN.1402": {Destinations: networks(11)}, "VPN.1301": {GroupID: new(nobody)},
		"VPN.1405": {Destinations: []string{"127.0.0.0/8"}},
	} {
		_, err := w.UpdateAccessPolicy(t.Context(), project, serverOfUsers, a.ID, update)
		wantP2C(t, err, name)
	}
}

func TestNumberOfAccessPoliciesIsBounded(t *testing.T) {
	w := userWorld(t) // with the Default policy
	for range 100 {
		w.addPolicy(defaultGroup) // of one name
	}
	_, err := w.CreateAccessPolicy(t.Context(), project, serverOfUsers, policyRequest("10.0.0.0/8"))
	wantP2C(t, err, "VPN.1400", "exceeds the upper limit (100).")
	if l, err := w.ListAccessPolicies(t.Context(), project, serverOfUsers, Page{}); err != nil || l.Total != 101 {
		t.Errorf("%d policies, %v", l.Total, err)
	}
}

func TestDefaultPolicyStays(t *testing.T) {
	w := userWorld(t)
	_, err := w.UpdateAccessPolicy(t.Context(), project, serverOfUsers, defaultPolicy, AccessPolicyUpdate{Description: new("x")})
	wantP2C(t, err, "VPN.1406")
	wantP2C(t, w.DeleteAccessPolicy(t.Context(), project, serverOfUsers, defaultPolicy), "VPN.1406")
}
