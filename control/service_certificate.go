package control

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/emmansun/gmsm/smx509"
	"github.com/google/uuid"
)

// CertificateView is the certificate of a gateway as the API shows it: neither keys
// nor PEM.
type CertificateView struct {
	ID, Name, GatewayID, Project string
	State                        CertificateState

	Signing, Encryption, Chain CertificateInfo
	CreatedAt, UpdatedAt       time.Time
}

// CertificateFilter restricts a list. A zero member matches everything.
type CertificateFilter struct {
	// PreExpireDays, when set, keeps those that end within so many days.
	PreExpireDays *int
	Page          Page
}

// ImportCertificate performs CreateVgwCertificate. Only a gateway of flavor GM has
// one.
func (s *Service) ImportCertificate(ctx context.Context, project, id string, req CertificateRequest) (CertificateView, error) {
	var view CertificateView
	err := s.objects.change(ctx, func(tx *transaction) error {
		g, status, err := tx.readyGateway(project, id, GatewayActive)
		if err != nil {
			return err
		}
		switch {
		case g.Flavor != FlavorGM:
			return Invalid("certificate", "only a gateway of flavor GM has one, this is %s", g.Flavor)
		case g.Certificate != nil:
			return Invalid("certificate", "the gateway has certificate %s: change it instead", g.Certificate.ID)
		}
		name, err := randomName("cert-", s.random)
		if err != nil {
			return err
		}
		c, err := s.parseCertificate(&req, GatewayCertificate{Name: name}, certificatePlace(&g))
		if err != nil {
			return err
		}
		uid, err := uuid.NewRandomFromReader(s.random)
		if err != nil {
			return fmt.Errorf("random id: %w", err)
		}
		c.ID = uid.String()
		if c.CreatedAt, err = s.certificateTime(tx, project); err != nil {
			return err
		}
		view, err = s.putCertificate(tx, g, status, c, c.CreatedAt)
		return err
	})
	return view, err
}

// certificateTime returns when a certificate is made: later than all others of the
// project, since it is the marker of pages.
func (s *Service) certificateTime(tx *transaction, project string) (time.Time, error) {
	at := s.now().UTC().Truncate(time.Millisecond)
	gateways, err := tx.gateways(project)
	for _, g := range gateways {
		if c := g.Certificate; c != nil && !c.CreatedAt.Before(at) {
			at = c.CreatedAt.Add(time.Millisecond)
		}
	}
	return at, err
}

// putCertificate gives a gateway a certificate that the engines are to follow.
func (s *Service) putCertificate(tx *transaction, g Gateway, status GatewayStatus, c GatewayCertificate, at time.Time) (CertificateView, error) {
	s.touch(&g.Meta)
	c.UpdatedAt, c.Since = at, g.Generation
	g.Certificate = &c
	view, err := viewCertificate(&g, status)
	if err != nil {
		return view, err
	}
	return view, tx.putGateway(g)
}

// ShowCertificate performs ShowVpnGatewayCertificate.
func (s *Service) ShowCertificate(ctx context.Context, project, id string) (CertificateView, error) {
	tx := s.read(ctx)
	g, err := tx.gateway(project, id)
	if err != nil {
		return CertificateView{}, err
	}
	if g.Certificate == nil {
		return CertificateView{}, NotFound()
	}
	status, err := tx.gatewayStatus(g.Meta)
	if err != nil {
		return CertificateView{}, err
	}
	return viewCertificate(&g, status)
}

// UpdateCertificate performs UpdateVgwCertificate. Connections prove themselves with
// the new one at once, and go on with what the old one has proved until that is
// done.
func (s *Service) UpdateCertificate(ctx context.Context, project, gateway, id string, req CertificateRequest) (CertificateView, error) {
	var view CertificateView
	err := s.objects.change(ctx, func(tx *transaction) error {
		// One that cannot be applied may be mended by another certificate.
		g, status, err := tx.readyGateway(project, gateway, GatewayActive, GatewayFault)
		if err != nil {
			return err
		}
		if g.Certificate == nil || g.Certificate.ID != id {
			return NotFound()
		}
		c, err := s.parseCertificate(&req, *g.Certificate, certificatePlace(&g))
		if err != nil {
			return err
		}
		at := s.now().UTC().Truncate(time.Millisecond)
		if !bytes.Equal(c.SealedSigningKey, g.Certificate.SealedSigningKey) {
			view, err = s.putCertificate(tx, g, status, c, at)
			return err
		}
		if c.Name != g.Certificate.Name {
			c.UpdatedAt = at
			g.Certificate = &c
			s.touchQuietly(&g.Meta)
			if err := tx.putGateway(g); err != nil {
				return err
			}
		}
		view, err = viewCertificate(&g, status)
		return err
	})
	return view, err
}

// ListCertificates performs ListVpnGatewayCertificates: newest first.
func (s *Service) ListCertificates(ctx context.Context, project string, f CertificateFilter) ([]CertificateView, error) {
	if err := validProject(project); err != nil {
		return nil, err
	}
	tx := s.read(ctx)
	gateways, err := tx.gateways(project)
	if err != nil {
		return nil, err
	}
	status, err := statuses(ctx, s.objects.gatewayStatus, project)
	if err != nil {
		return nil, err
	}
	var views []CertificateView
	for i := range gateways {
		g := &gateways[i]
		if g.Certificate == nil {
			continue
		}
		v, err := viewCertificate(g, status[g.ID])
		if err != nil {
			return nil, err
		}
		if days := f.PreExpireDays; days != nil && v.ends().After(s.now().AddDate(0, 0, *days)) {
			continue
		}
		views = append(views, v)
	}
	page, err := paginate(views, func(v *CertificateView) time.Time { return v.CreatedAt }, f.Page, maxGatewayCertificates)
	return slices.Clip(page.Items), err
}

// ends returns when the first one of the certificates ends.
func (v *CertificateView) ends() time.Time {
	first := v.Signing.Expires
	for _, at := range []time.Time{v.Encryption.Expires, v.Chain.Expires} {
		if at.Before(first) {
			first = at
		}
	}
	return first
}

func viewCertificate(g *Gateway, status GatewayStatus) (CertificateView, error) {
	c := g.Certificate
	v := CertificateView{
		ID: c.ID, Name: c.Name, GatewayID: g.ID, Project: g.Project, State: c.state(status), CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}
	for _, each := range []struct {
		text string
		to   *CertificateInfo
	}{{c.Signing, &v.Signing}, {c.Encryption, &v.Encryption}, {c.Chain, &v.Chain}} {
		var chain []*smx509.Certificate
		chain, err := parseGMCertificates(each.text)
		if err != nil {
			return v, fmt.Errorf("certificate %s of gateway %s: %w", c.ID, g.ID, err)
		}
		*each.to = gmInfo(chain[0])
	}
	return v, nil
}
