package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// What one server of client-to-cloud VPN may have, and how many the benchmark
// makes at most.
const (
	usersOfServer    = 250
	policiesOfServer = 100
	maxServers       = 4
)

// benchServer is a server of client-to-cloud VPN with one group.
type benchServer struct {
	gateway, id, group string
}

func (s *benchServer) path(elements string) string {
	return "p2c-vpn-gateways/vpn-servers/" + s.id + "/" + elements
}

// createServers makes the gateways and servers that the users and policies need.
func (l *load) createServers(ctx context.Context) error {
	n := max((l.options.users+usersOfServer-1)/usersOfServer, (l.options.policies+policiesOfServer-1)/policiesOfServer)
	api := l.caller(0, 0)
	for i := range n {
		s := &benchServer{}
		var answer struct {
			Gateway client.Object `json:"p2c_vpn_gateway"`
			Server  client.Object `json:"vpn_server"`
			Group   client.Object `json:"user_group"`
		}
		err := api.Call(ctx, http.MethodPost, "p2c-vpn-gateways", client.Object{"p2c_vpn_gateway": client.Object{
			"vpc_id": benchVPC, "connect_subnet": subnetID, "eip": client.Object{"id": eipID(2*maxGateways + i)}, "max_connection_number": usersOfServer,
		}}, &answer)
		if err != nil {
			return err
		}
		s.gateway = answer.Gateway.ID()
		if err := l.waitActive(ctx, "p2c-vpn-gateways/"+s.gateway, "p2c_vpn_gateway"); err != nil {
			return err
		}
		err = api.Call(ctx, http.MethodPost, "p2c-vpn-gateways/"+s.gateway+"/vpn-servers", client.Object{"vpn_server": client.Object{
			"client_cidr": fmt.Sprintf("10.200.%d.0/20", 16*i), "local_subnets": []string{"192.168.0.0/24"},
			"server_certificate": client.Object{"source": "SERVICE_SIGN"},
		}}, &answer)
		if err != nil {
			return err
		}
		s.id = answer.Server.ID()
		if err := l.waitActive(ctx, "p2c-vpn-gateways/"+s.gateway+"/vpn-servers", "vpn_servers"); err != nil {
			return err
		}
		if err := api.Call(ctx, http.MethodPost, s.path("groups"), client.Object{"user_group": client.Object{"name": "bench"}}, &answer); err != nil {
			return err
		}
		s.group = answer.Group.ID()
		l.servers = append(l.servers, s)
	}
	return nil
}

// waitActive waits until an object, or the first one of a list, is ACTIVE.
func (l *load) waitActive(ctx context.Context, path, member string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	status, n := "", 0
	err := netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var answer map[string]any
		n++
		if err := l.caller(0, n).Call(ctx, http.MethodGet, path, nil, &answer); err != nil {
			return false, err
		}
		object, _ := answer[member].(map[string]any)
		if list, ok := answer[member].([]any); ok && len(list) > 0 {
			object, _ = list[0].(map[string]any)
		}
		status = client.Object(object).Status()
		return status == "ACTIVE", nil
	})
	if err != nil {
		return fmt.Errorf("%s is %q: %w", path, status, err)
	}
	return nil
}

// createUsers makes users, each with a password of its own, and policies, and
// looks that all are there.
func (l *load) createUsers(ctx context.Context) error {
	if l.options.users == 0 && l.options.policies == 0 {
		return nil
	}
	if err := l.createServers(ctx); err != nil {
		return err
	}
	server := func(i int) *benchServer { return l.servers[i%len(l.servers)] }
	err := l.together(ctx, "users created", l.options.users, func(ctx context.Context, api *client.Client, i int) error {
		s := server(i)
		return api.Call(ctx, http.MethodPost, s.path("users"), client.Object{"user": client.Object{
			"name": fmt.Sprintf("user-%d", i), "password": fmt.Sprintf("Bench-of-%d-users", i), "user_group_id": s.group,
		}}, nil)
	})
	if err != nil {
		return err
	}
	err = l.together(ctx, "access policies created", l.options.policies, func(ctx context.Context, api *client.Client, i int) error {
		s := server(i)
		return api.Call(ctx, http.MethodPost, s.path("access-policies"), client.Object{"access_policy": client.Object{
			"name": fmt.Sprintf("policy-%d", i), "user_group_id": s.group, "dest_ip_cidrs": []string{fmt.Sprintf("10.%d.%d.0/24", 100+i/250, i%250)},
		}}, nil)
	})
	if err != nil {
		return err
	}
	users, policies := 0, -len(l.servers) // each server has a policy from the start
	for _, s := range l.servers {
		var answer struct {
			Total int `json:"total_count"`
		}
		for what, sum := range map[string]*int{"users": &users, "access-policies": &policies} {
			if err := l.caller(0, 0).Call(ctx, http.MethodGet, s.path(what), nil, &answer); err != nil {
				return err
			}
			*sum += answer.Total
		}
	}
	if users != l.options.users || policies != l.options.policies {
		return fmt.Errorf("a write was lost: there are %d users and %d policies", users, policies)
	}
	return nil
}
