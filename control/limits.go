package control

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// Numbers of the API.
const (
	maxBandwidthMbps       = 1000
	maxSubnets             = 50 // local or peer subnets
	maxPolicyRules         = 5
	maxDestinations        = 50 // of a policy rule
	maxTags                = 20
	maxNameLen             = 64
	maxIDLen               = 255
	maxCustomerIDLen       = 128
	minPSKLen              = 8
	maxPSKLen              = 128
	minPPKLen              = 32
	maxPPKLen              = 256
	maxCustomerGatewayPage = 200
	maxConnectionPage      = 2000
	maxBatchConnections    = 2
	maxP2CPage             = 2000
	minUserNameLen         = 4
	maxUserNameLen         = 32
	maxBatchUsers          = 100 // each costs a hash
	maxUserList            = 500 // the most that a gateway has
	maxUserGroups          = 50  // of a server, its Default group included
	maxAccessPolicies      = 100 // of a server, besides its Default policy
	maxDestinationCIDRs    = 10
	maxClientConnections   = 500 // of a gateway at once
	maxServerSubnets       = 20
	maxClientCAs           = 10
	maxDNSServers          = 2

	defaultBGPASN          = 64512
	defaultBandwidthMbps   = 300
	defaultFlavor          = FlavorProfessional1
	defaultConnectionLimit = 200
	defaultMaxClients      = 10
)

var (
	eipTypes    = []string{"5_bgp", "5_sbgp", "5_youxuanbgp"}
	chargeModes = []string{"bandwidth", "traffic"}
)

// flavorBandwidth is the limit of an EIP's bandwidth by flavor, in Mbit/s.
var flavorBandwidth = map[Flavor]int{
	FlavorBasic:                   100,
	FlavorProfessional1:           300,
	FlavorProfessional2:           1000,
	FlavorGM:                      500,
	FlavorProfessional1NonFixedIP: 300,
	FlavorProfessional2NonFixedIP: 1000,
}

// Limits are the quotas of a project and the sizes of gateways. A zero value
// means the default.
type Limits struct {
	Gateways         int `yaml:"gateways"`          // per project, default 50
	CustomerGateways int `yaml:"customer_gateways"` // per project, default 100
	Connections      int `yaml:"connections"`       // per project, default 5000
	P2CGateways      int `yaml:"p2c_gateways"`      // per project, default 50
	// GatewayConnections is the number of connections of one gateway by
	// flavor, default 200.
	GatewayConnections map[Flavor]int `yaml:"gateway_connections"`
}

// Validate checks the limits. All defects are reported, joined.
func (l Limits) Validate() error {
	var errs []error
	check := func(key string, n int) {
		if n < 0 {
			errs = append(errs, fmt.Errorf("limits.%s: %d is negative (0: the default)", key, n))
		}
	}
	check("gateways", l.Gateways)
	check("customer_gateways", l.CustomerGateways)
	check("connections", l.Connections)
	check("p2c_gateways", l.P2CGateways)
	for _, f := range slices.Sorted(maps.Keys(l.GatewayConnections)) {
		if _, known := flavorBandwidth[f]; !known {
			errs = append(errs, fmt.Errorf("limits.gateway_connections: there is no flavor %q; there are %s",
				f, oneOf(slices.Sorted(maps.Keys(flavorBandwidth)))))
		}
		check("gateway_connections."+string(f), l.GatewayConnections[f])
	}
	return errors.Join(errs...)
}

func (l Limits) gateways() int         { return orDefault(l.Gateways, 50) }
func (l Limits) customerGateways() int { return orDefault(l.CustomerGateways, 100) }
func (l Limits) p2cGateways() int      { return orDefault(l.P2CGateways, 50) }
func (l Limits) connections() int      { return orDefault(l.Connections, 5000) }

// OfFlavor returns how many connections a gateway may have.
func (l Limits) OfFlavor(f Flavor) int {
	return orDefault(l.GatewayConnections[f], defaultConnectionLimit)
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func (e *EIP) fillDefaults() {
	if e.Type == "" {
		e.Type = eipTypes[0]
	}
	if e.ChargeMode == "" {
		e.ChargeMode = chargeModes[0]
	}
	if e.BandwidthMbps == 0 {
		e.BandwidthMbps = defaultBandwidthMbps
	}
	if e.BandwidthID == "" {
		e.BandwidthID = uuid.NewSHA1(uuid.NameSpaceOID, []byte("bandwidth of eip "+e.ID)).String()
	}
	if e.BandwidthName == "" {
		e.BandwidthName = "bandwidth-" + e.Address.String()
	}
}
