package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// AccessPolicyCreate is a request for a policy. A nil member was not sent.
type AccessPolicyCreate struct {
	Name         *string
	GroupID      *string
	Description  *string
	Destinations []string
}

// AccessPolicyUpdate is a change of a policy. A nil member stays as it is.
type AccessPolicyUpdate struct {
	Name         *string
	GroupID      *string
	Description  *string
	Destinations []string
}

// parseAccessPolicy reads a request for a policy.
func parseAccessPolicy(req *AccessPolicyCreate) (AccessPolicy, error) {
	p := &parser{}
	switch {
	case req.Name == nil:
		p.fail("name", "is required")
	case req.GroupID == nil || *req.GroupID == "":
		p.fail("user_group_id", "is required")
	case req.Destinations == nil:
		p.fail("dest_ip_cidrs", "is required")
	}
	if err := p.result(); err != nil {
		return AccessPolicy{}, err
	}
	change := AccessPolicyUpdate(*req)
	return mergeAccessPolicy(&change, AccessPolicy{Type: TypeCustom})
}

// mergeAccessPolicy reads a change of a policy over its present specification.
func mergeAccessPolicy(req *AccessPolicyUpdate, a AccessPolicy) (AccessPolicy, error) {
	p := &parser{}
	p.characters("name", req.Name, &a.Name, 1, maxNameLen, groupNameCharacters)
	p.id("user_group_id", req.GroupID, &a.GroupID)
	p.characters("description", req.Description, &a.Description, 0, maxNameLen, descriptionCharacters)
	if err := p.result(); err != nil || req.Destinations == nil {
		return a, err
	}
	var err error
	a.Destinations, err = parseDestinations(req.Destinations)
	return a, err
}

// parseDestinations reads the networks that a policy opens. Host bits are
// dropped.
func parseDestinations(texts []string) ([]netip.Prefix, error) {
	if len(texts) == 0 {
		return nil, Invalid("dest_ip_cidrs", "must not be empty")
	}
	if len(texts) > maxDestinationCIDRs {
		return nil, refuse("VPN.1402", "The number of destination CIDR blocks exceeds the upper limit.")
	}
	var out []netip.Prefix
	for i, text := range texts {
		n, err := netip.ParsePrefix(text)
		if err != nil || n.Addr().Is4In6() {
			return nil, refuse("VPN.1403", "The destination CIDR block %s is invalid.", shownNetwork(text, i))
		}
		n = n.Masked()
		if slices.Contains(out, n) {
			return nil, refuse("VPN.1404", "Duplicate destination CIDR block %s", n)
		}
		if err := destinationIsUsable(n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// shownNetwork is what a refusal calls the network of a request: what was sent,
// unless that looks like none.
func shownNetwork(text string, place int) string {
	if len(text) > len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128") || strings.Trim(text, "0123456789abcdefABCDEF:./") != "" {
		return fmt.Sprintf("dest_ip_cidrs[%d]", place)
	}
	return text
}

// unusableDestinations are no unicast networks of others.
var unusableDestinations = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

// destinationIsUsable: 0.0.0.0/0 and ::/0 stand for all that the server gives
// access to.
func destinationIsUsable(n netip.Prefix) error {
	if n.Bits() == 0 || !overlapsAny(n, unusableDestinations) && !overlapsAny(n, specialIPv6) {
		return nil
	}
	return refuse("VPN.1405", "The destination CIDR block %s is unavailable.", n)
}

// policyFits: networks of IPv6 go with a server whose clients have addresses of it.
func policyFits(r *roster, a *AccessPolicy) error {
	for i, n := range a.Destinations {
		if n.Addr().Is6() && !r.server.ClientCIDRv6.IsValid() {
			return refuse("VPN.1403", "The destination CIDR block dest_ip_cidrs[%d] is invalid.", i)
		}
	}
	return policyGroupExists(r, a)
}

// policyGroupExists: the group of a policy is one of the same server.
func policyGroupExists(r *roster, a *AccessPolicy) error {
	if r.group(a.GroupID) == nil {
		return noUserGroup()
	}
	return nil
}

func policiesFit(r *roster) error {
	custom := 0
	for _, p := range r.policies {
		if p.Type == TypeCustom {
			custom++
		}
	}
	if custom >= maxAccessPolicies {
		return refuse("VPN.1400", "The number of access policies exceeds the upper limit (%d).", maxAccessPolicies)
	}
	return nil
}

func policyIsCustom(a *AccessPolicy) error {
	if a.Type == TypeDefault {
		return refuse("VPN.1406", "Default access policy cannot be operated.")
	}
	return nil
}
