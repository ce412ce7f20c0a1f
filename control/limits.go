package control

import "github.com/google/uuid"

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
	maxCustomerGatewayPage = 200
	maxConnectionPage      = 2000
	maxBatchConnections    = 2

	defaultBGPASN          = 64512
	defaultBandwidthMbps   = 300
	defaultFlavor          = FlavorProfessional1
	defaultConnectionLimit = 200
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
	// GatewayConnections is the number of connections of one gateway by
	// flavor, default 200.
	GatewayConnections map[Flavor]int `yaml:"gateway_connections"`
}

func (l Limits) gateways() int         { return orDefault(l.Gateways, 50) }
func (l Limits) customerGateways() int { return orDefault(l.CustomerGateways, 100) }
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
