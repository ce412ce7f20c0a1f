package control

import "context"

// ImportCertificate performs CreateVgwCertificate. Only a gateway of flavor GM
// has a certificate, and there is none yet; so no gateway has a certificate to
// show or to change.
func (s *Service) ImportCertificate(ctx context.Context, project, id string) error {
	g, _, err := s.read(ctx).readyGateway(project, id, GatewayActive)
	if err != nil {
		return err
	}
	p := &parser{}
	if g.Flavor != FlavorGM {
		p.fail("certificate", "only a gateway of flavor GM has one, this is %s", g.Flavor)
	}
	p.unsupported("certificate", "GM is a flavor that")
	return p.result()
}
