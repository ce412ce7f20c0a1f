package control

import (
	"context"
	"net/http"
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
// is served by no node and has none.
func (s *Service) connected(ctx context.Context, v *P2CGatewayView) ([]ClientConnection, error) {
	if s.engines != nil {
		if list, served := s.engines.ClientConnections(v.ID); served {
			return list, nil
		}
	}
	if v.State == P2CActive {
		servers, err := s.ListServersOfGateway(ctx, v.Project, v.ID)
		if err == nil && len(servers) > 0 {
			err = servedByAnotherNode(v.ID)
		}
		return nil, err
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

func servedByAnotherNode(gatewayID string) *Error {
	return p2cRefusal(CodeInternal, http.StatusInternalServerError,
		"server error: another node than this one serves gateway %s", gatewayID)
}
