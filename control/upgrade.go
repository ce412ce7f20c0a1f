package control

import "context"

// UpgradeAction is a step of the upgrade of a gateway.
type UpgradeAction string

// Steps of an upgrade.
const (
	UpgradeStart    UpgradeAction = "start"
	UpgradeFinish   UpgradeAction = "finish"
	UpgradeRollback UpgradeAction = "rollback"
)

// UpgradeGateway performs UpgradeVpnGateway. A gateway runs the version of the
// daemon that serves it, so there never is a newer one to go to: upgrade_info
// is unready, every step is refused, and no job comes of it.
func (s *Service) UpgradeGateway(ctx context.Context, project, id string, action UpgradeAction) error {
	if _, _, err := s.read(ctx).readyGateway(project, id, GatewayActive); err != nil {
		return err
	}
	return noUpgrade(action)
}

// noUpgrade refuses a step of an upgrade.
func noUpgrade(action UpgradeAction) *Error {
	switch action {
	case UpgradeStart:
		return Invalid("action", "no newer version than that of this gateway is installed")
	case UpgradeFinish, UpgradeRollback:
		return Invalid("action", "no upgrade of this gateway is under way")
	}
	return Invalid("action", "must be one of %s", oneOf([]UpgradeAction{UpgradeStart, UpgradeFinish, UpgradeRollback}))
}
