// Package declare brings the objects of a project to what a YAML file says:
// gateways, customer gateways and connections, client-to-cloud gateways with
// their servers, users, groups and access policies, matched by name.
package declare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// File is the wanted state. Fields have the names of the API; only where one
// object of ours refers to another there is a name instead of an id.
type File struct {
	Gateways         []Gateway         `yaml:"gateways"`
	CustomerGateways []CustomerGateway `yaml:"customer_gateways"`
	Connections      []Connection      `yaml:"connections"`
	P2CGateways      []P2CGateway      `yaml:"p2c_gateways"`
}

// Gateway is a VPN gateway.
type Gateway struct {
	Name                string   `yaml:"name" json:"name"`
	NetworkType         string   `yaml:"network_type" json:"network_type,omitempty"`
	AttachmentType      string   `yaml:"attachment_type" json:"attachment_type,omitempty"`
	IPVersion           string   `yaml:"ip_version" json:"ip_version,omitempty"`
	ERID                string   `yaml:"er_id" json:"er_id,omitempty"`
	VPCID               string   `yaml:"vpc_id" json:"vpc_id,omitempty"`
	LocalSubnets        []string `yaml:"local_subnets" json:"local_subnets,omitempty"`
	LocalSubnetsV6      []string `yaml:"local_subnets_v6" json:"local_subnets_v6,omitempty"`
	ConnectSubnet       string   `yaml:"connect_subnet" json:"connect_subnet,omitempty"`
	BGPASN              *int64   `yaml:"bgp_asn" json:"bgp_asn,omitempty"`
	Flavor              string   `yaml:"flavor" json:"flavor,omitempty"`
	AvailabilityZoneIDs []string `yaml:"availability_zone_ids" json:"availability_zone_ids,omitempty"`
	EnterpriseProjectID string   `yaml:"enterprise_project_id" json:"enterprise_project_id,omitempty"`
	EIP1                *EIP     `yaml:"eip1" json:"eip1,omitempty"`
	EIP2                *EIP     `yaml:"eip2" json:"eip2,omitempty"`
	AccessVPCID         string   `yaml:"access_vpc_id" json:"access_vpc_id,omitempty"`
	AccessSubnetID      string   `yaml:"access_subnet_id" json:"access_subnet_id,omitempty"`
	HAMode              string   `yaml:"ha_mode" json:"ha_mode,omitempty"`
	AccessPrivateIP1    string   `yaml:"access_private_ip_1" json:"access_private_ip_1,omitempty"`
	AccessPrivateIP2    string   `yaml:"access_private_ip_2" json:"access_private_ip_2,omitempty"`
	Tags                []Tag    `yaml:"tags" json:"tags,omitempty"`
	// PolicyTemplate is of NonFixedIP flavors only. The API takes it in updates.
	PolicyTemplate *PolicyTemplate `yaml:"policy_template" json:"policy_template,omitempty"`
}

// PolicyTemplate holds the algorithms for peers without a fixed address.
type PolicyTemplate struct {
	IKEPolicy   *IKEPolicy   `yaml:"ike_policy" json:"ike_policy,omitempty"`
	IPsecPolicy *IPsecPolicy `yaml:"ipsec_policy" json:"ipsec_policy,omitempty"`
}

// EIP is an elastic address that exists already (id), or one to be made.
type EIP struct {
	ID            string `yaml:"id" json:"id,omitempty"`
	Type          string `yaml:"type" json:"type,omitempty"`
	ChargeMode    string `yaml:"charge_mode" json:"charge_mode,omitempty"`
	BandwidthSize *int   `yaml:"bandwidth_size" json:"bandwidth_size,omitempty"`
	BandwidthName string `yaml:"bandwidth_name" json:"bandwidth_name,omitempty"`
	BandwidthID   string `yaml:"bandwidth_id" json:"bandwidth_id,omitempty"`
}

// CustomerGateway is the device at the other end.
type CustomerGateway struct {
	Name    string `yaml:"name" json:"name"`
	IDType  string `yaml:"id_type" json:"id_type,omitempty"`
	IDValue string `yaml:"id_value" json:"id_value,omitempty"`
	BGPASN  *int64 `yaml:"bgp_asn" json:"bgp_asn,omitempty"`
	Tags    []Tag  `yaml:"tags" json:"tags,omitempty"`
}

// Connection is one IKE relation between an address of a gateway and a customer
// gateway.
type Connection struct {
	Name            string `yaml:"name" json:"name"`
	Gateway         string `yaml:"gateway" json:"-"`          // by name; vgw_id in the API
	CustomerGateway string `yaml:"customer_gateway" json:"-"` // by name; cgw_id in the API

	VGWIP              string       `yaml:"vgw_ip" json:"vgw_ip,omitempty"`
	Style              string       `yaml:"style" json:"style,omitempty"`
	PeerSubnets        []string     `yaml:"peer_subnets" json:"peer_subnets,omitempty"`
	PeerSubnetsV6      []string     `yaml:"peer_subnets_v6" json:"peer_subnets_v6,omitempty"`
	TunnelLocalAddress string       `yaml:"tunnel_local_address" json:"tunnel_local_address,omitempty"`
	TunnelPeerAddress  string       `yaml:"tunnel_peer_address" json:"tunnel_peer_address,omitempty"`
	EnableNQA          *bool        `yaml:"enable_nqa" json:"enable_nqa,omitempty"`
	EnableHub          *bool        `yaml:"enable_hub" json:"enable_hub,omitempty"`
	PolicyRules        []PolicyRule `yaml:"policy_rules" json:"policy_rules,omitempty"`
	PolicyRulesV6      []PolicyRule `yaml:"policy_rules_v6" json:"policy_rules_v6,omitempty"`
	IKEPolicy          *IKEPolicy   `yaml:"ikepolicy" json:"ikepolicy,omitempty"`
	IPsecPolicy        *IPsecPolicy `yaml:"ipsecpolicy" json:"ipsecpolicy,omitempty"`
	HARole             string       `yaml:"ha_role" json:"ha_role,omitempty"`
	Tags               []Tag        `yaml:"tags" json:"tags,omitempty"`

	// The pre-shared key comes from exactly one of these.
	PSK     string `yaml:"psk" json:"-"`
	PSKFile string `yaml:"psk_file" json:"-"`
	PSKEnv  string `yaml:"psk_env" json:"-"`

	// The post-quantum pre-shared key of ikepolicy.ppk_id comes likewise.
	PPK     string `yaml:"ppk" json:"-"`
	PPKFile string `yaml:"ppk_file" json:"-"`
	PPKEnv  string `yaml:"ppk_env" json:"-"`
}

// PolicyRule lets one source reach some destinations.
type PolicyRule struct {
	Source      string   `yaml:"source" json:"source,omitempty"`
	Destination []string `yaml:"destination" json:"destination,omitempty"`
}

// IKEPolicy is how the IKE SA is negotiated.
type IKEPolicy struct {
	IKEVersion              string `yaml:"ike_version" json:"ike_version,omitempty"`
	Phase1NegotiationMode   string `yaml:"phase1_negotiation_mode" json:"phase1_negotiation_mode,omitempty"`
	AuthenticationAlgorithm string `yaml:"authentication_algorithm" json:"authentication_algorithm,omitempty"`
	EncryptionAlgorithm     string `yaml:"encryption_algorithm" json:"encryption_algorithm,omitempty"`
	DHGroup                 string `yaml:"dh_group" json:"dh_group,omitempty"`
	AuthenticationMethod    string `yaml:"authentication_method" json:"authentication_method,omitempty"`
	LifetimeSeconds         *int   `yaml:"lifetime_seconds" json:"lifetime_seconds,omitempty"`
	LocalIDType             string `yaml:"local_id_type" json:"local_id_type,omitempty"`
	LocalID                 string `yaml:"local_id" json:"local_id,omitempty"`
	PeerIDType              string `yaml:"peer_id_type" json:"peer_id_type,omitempty"`
	PeerID                  string `yaml:"peer_id" json:"peer_id,omitempty"`
	DPD                     *DPD   `yaml:"dpd" json:"dpd,omitempty"`

	AdditionalKeyExchange string `yaml:"additional_key_exchange" json:"additional_key_exchange,omitempty"`
	PPKID                 string `yaml:"ppk_id" json:"ppk_id,omitempty"`
	PPKRequired           *bool  `yaml:"ppk_required" json:"ppk_required,omitempty"`
}

// DPD is the liveness check of an IKE SA; times are in seconds.
type DPD struct {
	Timeout  *int   `yaml:"timeout" json:"timeout,omitempty"`
	Interval *int   `yaml:"interval" json:"interval,omitempty"`
	Msg      string `yaml:"msg" json:"msg,omitempty"`
}

// IPsecPolicy is how the CHILD_SAs are negotiated.
type IPsecPolicy struct {
	AuthenticationAlgorithm string `yaml:"authentication_algorithm" json:"authentication_algorithm,omitempty"`
	EncryptionAlgorithm     string `yaml:"encryption_algorithm" json:"encryption_algorithm,omitempty"`
	PFS                     string `yaml:"pfs" json:"pfs,omitempty"`
	TransformProtocol       string `yaml:"transform_protocol" json:"transform_protocol,omitempty"`
	LifetimeSeconds         *int   `yaml:"lifetime_seconds" json:"lifetime_seconds,omitempty"`
	EncapsulationMode       string `yaml:"encapsulation_mode" json:"encapsulation_mode,omitempty"`

	AdditionalKeyExchange string `yaml:"additional_key_exchange" json:"additional_key_exchange,omitempty"`
	UDPEncapsulation      string `yaml:"udp_encapsulation" json:"udp_encapsulation,omitempty"`
}

// Tag is a label of an object.
type Tag struct {
	Key   string `yaml:"key" json:"key"`
	Value string `yaml:"value" json:"value"`
}

// Parse reads a file of any number of YAML documents. A key that it does not
// know is an error that names the line. Secrets are looked up by getenv and
// read from files.
func Parse(r io.Reader, getenv func(string) string) (*File, error) {
	var all File
	decoder := yaml.NewDecoder(r, yaml.Strict())
	for {
		var f File
		err := decoder.Decode(&f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			// The source lines stay out of the message: one may hold a secret.
			return nil, errors.New(yaml.FormatError(err, false, false))
		}
		all.Gateways = append(all.Gateways, f.Gateways...)
		all.CustomerGateways = append(all.CustomerGateways, f.CustomerGateways...)
		all.Connections = append(all.Connections, f.Connections...)
		all.P2CGateways = append(all.P2CGateways, f.P2CGateways...)
	}
	for i := range all.Connections {
		c := &all.Connections[i]
		var err error
		if c.PSK, err = secret("psk", c.PSK, c.PSKFile, c.PSKEnv, getenv); err != nil {
			return nil, fmt.Errorf("connections[%d] %s: %w", i, c.Name, err)
		}
		if c.PPK, err = secret("ppk", c.PPK, c.PPKFile, c.PPKEnv, getenv); err != nil {
			return nil, fmt.Errorf("connections[%d] %s: %w", i, c.Name, err)
		}
	}
	for i := range all.P2CGateways {
		g := &all.P2CGateways[i]
		if err := g.resolve(getenv); err != nil {
			return nil, fmt.Errorf("p2c_gateways[%d] %s: server: %w", i, g.Name, err)
		}
	}
	return &all, all.check()
}

// secret returns a secret that is given itself, in a file or in the
// environment, under a key and those ending in _file and _env. Without any it is
// empty.
func secret(key, text, file, env string, getenv func(string) string) (string, error) {
	given := 0
	for _, source := range []string{text, file, env} {
		if source != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return "", fmt.Errorf("give one of %[1]s, %[1]s_file and %[1]s_env", key)
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("%s_file: %w", key, err)
		}
		if text = strings.TrimRight(string(b), "\r\n"); text == "" {
			return "", fmt.Errorf("%s_file: %s is empty", key, file)
		}
	case env != "":
		if text = getenv(env); text == "" {
			return "", fmt.Errorf("%s_env: the environment has no %s", key, env)
		}
	}
	return text, nil
}

// check finds what the API could not: names that are missing or repeat.
func (f *File) check() error {
	var errs []error
	var gateways, customers, connections, clients []string
	for _, g := range f.Gateways {
		gateways = append(gateways, g.Name)
	}
	for _, c := range f.CustomerGateways {
		customers = append(customers, c.Name)
	}
	for i, c := range f.Connections {
		connections = append(connections, c.Name)
		if c.Gateway == "" {
			errs = append(errs, fmt.Errorf("connections[%d].gateway: is missing; it is the name of a gateway", i))
		}
		if c.CustomerGateway == "" {
			errs = append(errs, fmt.Errorf("connections[%d].customer_gateway: is missing; it is the name of a customer gateway", i))
		}
	}
	for i, g := range f.P2CGateways {
		clients = append(clients, g.Name)
		if g.Server != nil {
			errs = append(errs, g.Server.check(fmt.Sprintf("p2c_gateways[%d].server", i)))
		}
	}
	return errors.Join(append(errs,
		checkNames("gateways", gateways), checkNames("customer_gateways", customers),
		checkNames("connections", connections), checkNames("p2c_gateways", clients))...)
}

// checkNames finds names that are missing or occur twice.
func checkNames(key string, names []string) error {
	var errs []error
	seen := map[string]bool{}
	for i, name := range names {
		if name == "" {
			errs = append(errs, fmt.Errorf("%s[%d].name: is missing; objects are matched by name", key, i))
		}
		if name != "" && seen[name] {
			errs = append(errs, fmt.Errorf("%s[%d].name: %q occurs twice", key, i, name))
		}
		seen[name] = true
	}
	return errors.Join(errs...)
}

// fields returns what the API is sent of an object, without its secrets.
func fields(v any) (client.Object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var o client.Object
	decoder := json.NewDecoder(bytes.NewReader(b))
	return o, decoder.Decode(&o)
}
