//go:build e2e

package interop

import (
	"context"
	"fmt"
)

// vti gives each route-based cell of a router a device of its own, whose key is
// the mark of the cell's policies.
func (r *router) vti(ctx context.Context) error {
	var lines, settings []string
	for _, c := range r.cells {
		if c.Style != "route" {
			continue
		}
		device := fmt.Sprintf("vti%d", c.Number)
		lines = append(lines,
			fmt.Sprintf("link add %s type vti local %s remote %s ikey %d okey %d", device, c.local(), c.gateway(), c.Number, c.Number),
			fmt.Sprintf("link set %s up mtu 1400", device),
			fmt.Sprintf("rule add from %s lookup %d", c.host(), 1000+c.Number),
			fmt.Sprintf("route add %s dev %s table %d", cloudSubnets[0], device, 1000+c.Number))
		settings = append(settings, "net.ipv4.conf."+device+".disable_policy=1", "net.ipv4.conf."+device+".rp_filter=0")
	}
	if len(lines) == 0 {
		return nil
	}
	if err := r.IP(ctx, lines...); err != nil {
		return err
	}
	return r.Sysctl(ctx, settings...)
}
