package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
)

// The kinds of objects of client-to-cloud VPN that are not of a server.
var (
	P2CGateways = Kind{
		Name: "p2c-gateway", Plural: "p2c-gateways",
		path: "p2c-vpn-gateways", one: "p2c_vpn_gateway", many: "p2c_vpn_gateways",
	}
	// Servers are those of all gateways. They have no names, and go with their
	// gateways.
	Servers = Kind{
		Name: "vpn-server", Plural: "vpn-servers",
		path: "vpn-servers", one: "vpn_server", many: "vpn_servers", items: serversPath, listed: true,
	}
)

const serversPath = "p2c-vpn-gateways/vpn-servers"

// ServersOf are the servers of one gateway: it has one at most.
func ServersOf(gatewayID string) Kind {
	k := Servers
	k.path = P2CGateways.path + "/" + url.PathEscape(gatewayID) + "/vpn-servers"
	return k
}

// UsersOf are the users of a server.
func UsersOf(serverID string) Kind {
	return ofServer(serverID, Kind{Name: "user", Plural: "users", path: "users", one: "user", many: "users"})
}

// UserGroupsOf are the groups of the users of a server.
func UserGroupsOf(serverID string) Kind {
	return ofServer(serverID, Kind{Name: "user-group", Plural: "user-groups", path: "groups", one: "user_group", many: "user_groups"})
}

// AccessPoliciesOf are the access policies of a server.
func AccessPoliciesOf(serverID string) Kind {
	return ofServer(serverID, Kind{Name: "access-policy", Plural: "access-policies", path: "access-policies", one: "access_policy", many: "access_policies"})
}

// ClientCAsOf are the certificates that a server trusts for those of clients.
// They are listed with the server.
func ClientCAsOf(serverID string) Kind {
	return ofServer(serverID, Kind{Name: "client-ca", Plural: "client-cas", path: "client-ca-certificates", one: "client_ca_certificate"})
}

func ofServer(serverID string, k Kind) Kind {
	k.path = serversPath + "/" + url.PathEscape(serverID) + "/" + k.path
	return k
}

// ClientConnectionsOf are the connections of clients to the server of a gateway,
// the newest first. Their ids are in the member connection_id.
func ClientConnectionsOf(gatewayID string) Kind {
	return Kind{
		Name: "client connection", Plural: "client connections",
		path: P2CGateways.path + "/" + url.PathEscape(gatewayID) + "/connections", many: "connections",
	}
}

// Disconnect ends the connection of a client, which may come back at once.
func (c *Client) Disconnect(ctx context.Context, gatewayID, connection string) error {
	path := ClientConnectionsOf(gatewayID).at(connection) + "/disconnect"
	if err := c.do(ctx, http.MethodPost, path, nil, nil, nil); err != nil {
		return fmt.Errorf("disconnect client connection %s: %w", connection, err)
	}
	return nil
}

// ClientProfile returns the OpenVPN profile of the clients of a server. It has
// no secret but the key of the control channel, where there is one.
func (c *Client) ClientProfile(ctx context.Context, serverID string) (string, error) {
	var answer struct {
		Profile string `json:"client_config"`
	}
	if err := c.do(ctx, http.MethodPost, Servers.at(serverID)+"/client-config/export", nil, map[string]string{}, &answer); err != nil {
		return "", fmt.Errorf("profile of server %s: %w", serverID, err)
	}
	return answer.Profile, nil
}

// ResetPassword gives a user of a server another password. The one that is
// valid already, or was not long ago, is refused with CodePasswordUsed.
func (c *Client) ResetPassword(ctx context.Context, serverID, userID, password string) error {
	path := UsersOf(serverID).path + "/" + url.PathEscape(userID) + "/reset-password"
	if err := c.do(ctx, http.MethodPost, path, nil, map[string]string{"new_password": password}, nil); err != nil {
		return fmt.Errorf("reset password of user %s: %w", userID, err)
	}
	return nil
}

// Totp is what an authenticator app is given.
type Totp struct {
	Secret string `json:"secret"` // base32
	URI    string `json:"uri"`    // otpauth://totp/…
}

// EnrollUser gives a user of a server a secret of one-time codes, which the API
// tells this once.
func (c *Client) EnrollUser(ctx context.Context, serverID, userID string) (Totp, error) {
	var answer struct {
		Totp Totp `json:"totp"`
	}
	if err := c.do(ctx, http.MethodPost, UsersOf(serverID).at(userID)+"/totp", nil, nil, &answer); err != nil {
		return Totp{}, fmt.Errorf("enroll user %s: %w", userID, err)
	}
	return answer.Totp, nil
}

// UnenrollUser takes the secret of one-time codes away from a user.
func (c *Client) UnenrollUser(ctx context.Context, serverID, userID string) error {
	if err := c.do(ctx, http.MethodDelete, UsersOf(serverID).at(userID)+"/totp", nil, nil, nil); err != nil {
		return fmt.Errorf("unenroll user %s: %w", userID, err)
	}
	return nil
}

// CodePasswordUsed is the code of the refusal of a password that a user has or
// had.
const CodePasswordUsed = "VPN.1311"

// codeNoPolicy is the code of a policy that is not there, whose status is 400.
const codeNoPolicy = "VPN.1401"
