package declare

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// P2CGateway is a client-to-cloud gateway.
type P2CGateway struct {
	Name                string   `yaml:"name" json:"name"`
	VPCID               string   `yaml:"vpc_id" json:"vpc_id,omitempty"`
	ConnectSubnet       string   `yaml:"connect_subnet" json:"connect_subnet,omitempty"`
	Flavor              string   `yaml:"flavor" json:"flavor,omitempty"`
	AvailabilityZoneIDs []string `yaml:"availability_zone_ids" json:"availability_zone_ids,omitempty"`
	EIP                 *EIP     `yaml:"eip" json:"eip,omitempty"`
	MaxConnectionNumber *int     `yaml:"max_connection_number" json:"max_connection_number,omitempty"`
	EnterpriseProjectID string   `yaml:"enterprise_project_id" json:"enterprise_project_id,omitempty"`
	Tags                []Tag    `yaml:"tags" json:"tags,omitempty"`

	Server *Server `yaml:"server" json:"-"`
}

// Server is the VPN server of a client-to-cloud gateway, with those who may use
// it.
type Server struct {
	TunnelProtocol    string             `yaml:"tunnel_protocol" json:"tunnel_protocol,omitempty"`
	ClientCIDR        string             `yaml:"client_cidr" json:"client_cidr,omitempty"`
	LocalSubnets      []string           `yaml:"local_subnets" json:"local_subnets,omitempty"`
	ClientAuthType    string             `yaml:"client_auth_type" json:"client_auth_type,omitempty"`
	ServerCertificate *ServerCertificate `yaml:"server_certificate" json:"server_certificate,omitempty"`
	SSLOptions        *SSLOptions        `yaml:"ssl_options" json:"ssl_options,omitempty"`
	DNSServers        []string           `yaml:"dns_servers" json:"dns_servers,omitempty"`
	SecondFactor      string             `yaml:"second_factor" json:"second_factor,omitempty"`
	ClientCIDRv6      string             `yaml:"client_cidr_v6" json:"client_cidr_v6,omitempty"`
	LocalSubnetsV6    []string           `yaml:"local_subnets_v6" json:"local_subnets_v6,omitempty"`
	Topology          string             `yaml:"topology" json:"topology,omitempty"`
	DNSDomain         string             `yaml:"dns_domain" json:"dns_domain,omitempty"`

	ClientCAs []ClientCA     `yaml:"client_ca_certificates" json:"-"`
	Groups    []UserGroup    `yaml:"user_groups" json:"-"`
	Users     []User         `yaml:"users" json:"-"`
	Policies  []AccessPolicy `yaml:"access_policies" json:"-"`
}

// ServerCertificate says where the certificate of a server comes from.
type ServerCertificate struct {
	Source string `yaml:"source" json:"source,omitempty"`
	ID     string `yaml:"id" json:"id,omitempty"`
}

// SSLOptions are the options of the tunnels.
type SSLOptions struct {
	Protocol            string `yaml:"protocol" json:"protocol,omitempty"`
	Port                *int   `yaml:"port" json:"port,omitempty"`
	EncryptionAlgorithm string `yaml:"encryption_algorithm" json:"encryption_algorithm,omitempty"`
	IsCompressed        *bool  `yaml:"is_compressed" json:"is_compressed,omitempty"`

	UDPPorts           []int  `yaml:"udp_ports" json:"udp_ports,omitempty"`
	ControlChannelWrap string `yaml:"control_channel_wrap" json:"control_channel_wrap,omitempty"`
	PortShare          string `yaml:"port_share" json:"port_share,omitempty"`

	RevokedClientKeys []string `yaml:"revoked_client_keys" json:"revoked_client_keys,omitempty"`
}

// ClientCA is a certificate that those of clients are checked with. It is
// matched by name alone.
type ClientCA struct {
	Name        string `yaml:"name" json:"name"`
	Content     string `yaml:"content" json:"content"` // PEM, or from a file
	ContentFile string `yaml:"content_file" json:"-"`
}

// UserGroup is a group of users.
type UserGroup struct {
	Name        string  `yaml:"name" json:"name"`
	Description *string `yaml:"description" json:"description,omitempty"`
}

// User may connect with a password.
type User struct {
	Name        string  `yaml:"name" json:"name"`
	Group       string  `yaml:"group" json:"-"` // by name; user_group_id in the API; empty: none
	Description *string `yaml:"description" json:"description,omitempty"`
	StaticIP    string  `yaml:"static_ip" json:"static_ip,omitempty"`

	// The password comes from one of these. Without one the user must exist.
	Password     string `yaml:"password" json:"-"`
	PasswordFile string `yaml:"password_file" json:"-"`
	PasswordEnv  string `yaml:"password_env" json:"-"`
}

// AccessPolicy lets the users of a group reach networks.
type AccessPolicy struct {
	Name         string   `yaml:"name" json:"name"`
	Group        string   `yaml:"group" json:"-"` // by name; user_group_id in the API
	Description  *string  `yaml:"description" json:"description,omitempty"`
	Destinations []string `yaml:"dest_ip_cidrs" json:"dest_ip_cidrs,omitempty"`
}

// resolve reads what stands elsewhere, and writes networks as the API answers
// them.
func (g *P2CGateway) resolve(getenv func(string) string) error {
	s := g.Server
	if s == nil {
		return nil
	}
	s.ClientCIDR = masked(s.ClientCIDR)
	for i, n := range s.LocalSubnets {
		s.LocalSubnets[i] = masked(n)
	}
	for i := range s.ClientCAs {
		ca := &s.ClientCAs[i]
		if (ca.Content == "") == (ca.ContentFile == "") {
			return fmt.Errorf("client_ca_certificates[%d] %s: give one of content and content_file", i, ca.Name)
		}
		if ca.ContentFile != "" {
			text, err := os.ReadFile(ca.ContentFile)
			if err != nil {
				return fmt.Errorf("client_ca_certificates[%d] %s: content_file: %w", i, ca.Name, err)
			}
			ca.Content = string(text)
		}
	}
	for i := range s.Users {
		u := &s.Users[i]
		var err error
		if u.Password, err = secret("password", u.Password, u.PasswordFile, u.PasswordEnv, getenv); err != nil {
			return fmt.Errorf("users[%d] %s: %w", i, u.Name, err)
		}
	}
	for i := range s.Policies {
		for j, n := range s.Policies[i].Destinations {
			s.Policies[i].Destinations[j] = masked(n)
		}
	}
	return nil
}

// masked returns a network without host bits. What is none is left to the API
// to refuse.
func masked(network string) string {
	n, err := netip.ParsePrefix(network)
	if err != nil {
		return network
	}
	return n.Masked().String()
}

// check finds what the API could not.
func (s *Server) check(key string) error {
	var cas, groups, users, policies []string
	var errs []error
	for _, ca := range s.ClientCAs {
		cas = append(cas, ca.Name)
	}
	for _, g := range s.Groups {
		groups = append(groups, g.Name)
	}
	for _, u := range s.Users {
		users = append(users, u.Name)
	}
	for i, p := range s.Policies {
		policies = append(policies, p.Name)
		if p.Group == "" {
			errs = append(errs, fmt.Errorf("%s.access_policies[%d].group: is missing; it is the name of a group", key, i))
		}
	}
	return errors.Join(append(errs,
		checkNames(key+".client_ca_certificates", cas), checkNames(key+".user_groups", groups),
		checkNames(key+".users", users), checkNames(key+".access_policies", policies))...)
}
