package api

import (
	"context"
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/control"
)

// ListNodes lists the nodes of the fleet.
func (h *handlers) ListNodes(ctx context.Context, _ ListNodesRequestObject) (ListNodesResponseObject, error) {
	views, err := h.server.service.Nodes(ctx, callOf(ctx).caller.Project)
	if err != nil {
		return nil, err
	}
	answer := ListNodes200JSONResponse{Nodes: []Node{}, RequestID: callOf(ctx).requestID}
	for _, v := range views {
		answer.Nodes = append(answer.Nodes, nodeBody(v))
	}
	return answer, nil
}

func nodeBody(v control.NodeView) Node {
	n := Node{
		Name: v.Name, Version: v.Version, StartedAt: v.Started, Self: v.Self, Steward: v.Steward,
		Addresses: addressTexts(v.Addresses), CanHave: addressTexts(v.CanHave), Gateways: append([]string{}, v.Gateways...),
	}
	if v.Zone != "" {
		n.AvailabilityZone = &v.Zone
	}
	if v.APIURL != "" {
		n.APIURL = &v.APIURL
	}
	if v.TTL > 0 {
		seconds := func(d time.Duration) int { return int(d / time.Second) }
		n.Lease = &struct {
			AgeSeconds  int `json:"age_seconds"`
			LeftSeconds int `json:"left_seconds"`
			TTLSeconds  int `json:"ttl_seconds"`
		}{AgeSeconds: max(seconds(v.TTL-v.LeaseLeft), 0), LeftSeconds: seconds(v.LeaseLeft), TTLSeconds: seconds(v.TTL)}
	}
	return n
}

func addressTexts(list []netip.Addr) []string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return texts
}
