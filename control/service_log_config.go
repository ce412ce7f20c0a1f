package control

import "context"

// SetLogConfig performs UpdateVpnConnectionsLogConfig: the connections of a
// gateway are logged to a stream of the inventory from now on. The gateway is
// not worked on.
func (s *Service) SetLogConfig(ctx context.Context, project, gatewayID string, c LogConfig) error {
	p := &parser{}
	p.required("log_group_id", &c.GroupID)
	p.shortID("log_group_id", &c.GroupID)
	p.required("log_stream_id", &c.StreamID)
	p.shortID("log_stream_id", &c.StreamID)
	if err := p.result(); err != nil {
		return err
	}
	return s.changeLogConfig(ctx, project, gatewayID, func() (*LogConfig, error) {
		if _, ok := s.inventory.Load().LogStream(c); !ok {
			return nil, Invalid("log_stream_id", "there is no log stream %s in a log group %s", c.StreamID, c.GroupID)
		}
		return &c, nil
	})
}

// RemoveLogConfig performs DeleteVpnConnectionsLogConfig. A gateway without one
// is no error.
func (s *Service) RemoveLogConfig(ctx context.Context, project, gatewayID string) error {
	return s.changeLogConfig(ctx, project, gatewayID, func() (*LogConfig, error) { return nil, nil })
}

func (s *Service) changeLogConfig(ctx context.Context, project, gatewayID string, next func() (*LogConfig, error)) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		g, err := tx.readyP2CGateway(project, gatewayID, P2CActive, P2CFault)
		if err != nil {
			return err
		}
		c, err := next()
		if err != nil {
			return err
		}
		if c == g.LogConfig || c != nil && g.LogConfig != nil && *c == *g.LogConfig {
			return nil
		}
		g.LogConfig = c
		s.touchQuietly(&g.Meta)
		return tx.putP2CGateway(g)
	})
}

// ShowLogConfig performs ShowVpnConnectionsLogConfig; nil when there is none.
func (s *Service) ShowLogConfig(ctx context.Context, project, gatewayID string) (*LogConfig, error) {
	g, err := s.read(ctx).p2cGateway(project, gatewayID)
	return g.LogConfig, err
}
