package control

import (
	"context"
	"slices"
	"strings"
)

// ClientConnections performs ListP2cVgwConnections: newest first, after the
// first offset ones. A nil limit is no limit. Total counts them all.
func (s *Service) ClientConnections(ctx context.Context, project, gatewayID string, limit *int, offset int) (List[ClientConnection], error) {
	if limit != nil && *limit < 1 {
		return List[ClientConnection]{}, Invalid("limit", "must be at least 1")
	}
	if offset < 0 {
		return List[ClientConnection]{}, Invalid("offset", "must not be negative")
	}
	v, err := s.ShowP2CGateway(ctx, project, gatewayID)
	if err != nil {
		return List[ClientConnection]{}, err
	}
	all, err := s.connected(ctx, &v)
	if err != nil {
		return List[ClientConnection]{}, err
	}
	slices.SortFunc(all, func(a, b ClientConnection) int {
		if c := b.Established.Compare(a.Established); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	l := List[ClientConnection]{Total: len(all)}
	l.Items = all[min(offset, len(all)):]
	if limit != nil {
		l.Items = l.Items[:min(*limit, len(l.Items))]
	}
	return l, nil
}

// connected asks the engines for the clients of a gateway. One without a server
// is served by no node and has none. It fails with *Elsewhere when another node
// serves the gateway.
func (s *Service) connected(ctx context.Context, v *P2CGatewayView) ([]ClientConnection, error) {
	if s.engines != nil {
		if list, served := s.engines.ClientConnections(v.ID); served {
			return list, nil
		}
	}
	d := s.division()
	if owner := d.OwnerOf(v.EIP.Address); owner != "" && owner != d.Node {
		return nil, &Elsewhere{Node: d.Nodes[owner], Refusal: servedElsewhere(v.ID, owner)}
	}
	return nil, nil
}

// DisconnectClient performs DeleteP2cVgwConnection. The client may come back at
// once.
func (s *Service) DisconnectClient(ctx context.Context, project, gatewayID, connection string) error {
	v, err := s.ShowP2CGateway(ctx, project, gatewayID)
	if err != nil {
		return err
	}
	if s.engines != nil && s.engines.DisconnectClient(gatewayID, connection) {
		return nil
	}
	if _, err := s.connected(ctx, &v); err != nil {
		return err
	}
	return noClientConnection()
}
