package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

const (
	bandwidthModules   = "modprobe -a sch_ingress cls_matchall act_police   # of the kernel's package"
	segmentSizeModules = "modprobe nf_tables   # of the kernel's package; CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6"
)

const kernelModules = "modprobe -a xfrm_user esp4 esp6 xfrm_interface   # of the kernel's package; CONFIG_INET_ESP, CONFIG_XFRM_INTERFACE"

// askKernel asks the kernel what it can, as the daemon does at its start.
func askKernel() (xfrm.Abilities, error) {
	b, err := xfrm.New(xfrm.Options{})
	if err != nil {
		return xfrm.Abilities{}, err
	}
	return b.Abilities(), b.Close()
}

// dataPlane tells what the kernel's data plane can do. Without it user space
// serves all tunnels, which is a fault only where the configuration wants the
// kernel.
func (h *host) dataPlane(c *config) []finding {
	backend := backendAuto
	if c != nil {
		backend = c.Dataplane.Backend
	}
	if h.kernel == nil || backend == backendUserspace {
		return nil
	}
	f := finding{Verdict: verdictOK, Subject: "kernel data plane"}
	lacks := func(detail string) {
		f.Detail = detail + ": user space serves the tunnels"
		if backend == backendKernel {
			f.Verdict, f.Detail, f.Fix = verdictFail, detail+", and dataplane.backend is kernel", kernelModules
		}
	}
	a, err := h.kernel()
	lacking := slices.SortedFunc(maps.Keys(a.Lacking()), func(x, y ipsec.Transform) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.ID, y.ID), cmp.Compare(x.KeyBits, y.KeyBits))
	})
	switch {
	case err != nil:
		lacks(err.Error())
	case a.Devices == "none":
		lacks("the kernel has neither XFRM interfaces nor VTI")
	case len(lacking) > 0:
		f.Verdict, f.Detail = verdictWarn, "the kernel lacks "+ipsec.TransformList(lacking)
	default:
		f.Detail = "ESP with all algorithms, devices of kind " + a.Devices
	}
	findings := []finding{f}
	if err == nil && !a.IPv6 {
		findings = append(findings, finding{verdictWarn, f.Subject, "the kernel has no ESP over IPv6: user space serves such tunnels", kernelModules})
	}
	if err != nil || a.Devices == "none" {
		return findings
	}
	if a.Bandwidth != nil {
		findings = append(findings, finding{
			verdictWarn, f.Subject, fmt.Sprintf("the kernel cannot limit the bandwidth of EIPs (%v): user space serves such tunnels", a.Bandwidth), bandwidthModules,
		})
	}
	if a.SegmentSize != nil {
		findings = append(findings, finding{
			verdictWarn, f.Subject, fmt.Sprintf("the kernel does not lower the TCP segment size in tunnels (%v): hosts need ICMP errors", a.SegmentSize), segmentSizeModules,
		})
	}
	return findings
}
