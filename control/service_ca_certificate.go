package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// caCertificate returns the CA certificate that a request is for: one that another
// customer gateway of the project has, or a new one. present is the one that new
// content replaces; nil: none.
func (s *Service) caCertificate(req *CACertificateRequest, present *CACertificate, others []CustomerGateway) (*CACertificate, error) {
	switch {
	case req == nil:
		return present, nil
	case req.ID != nil:
		i := slices.IndexFunc(others, func(c CustomerGateway) bool { return c.CACertificate != nil && c.CACertificate.ID == *req.ID })
		if i < 0 {
			return nil, Invalid("ca_certificate.id", "no customer gateway of the project has such a certificate")
		}
		return others[i].CACertificate, nil
	}
	chain, err := parseGMCAs("ca_certificate", *req.Content, s.now())
	if err != nil {
		return nil, err
	}
	if len(chain) != 1 {
		return nil, Invalid("ca_certificate.content", "must be one certificate")
	}
	text := encodeGMCertificate(chain[0])
	if present != nil {
		return &CACertificate{ID: present.ID, PEM: text}, nil
	}
	id, err := uuid.NewRandomFromReader(s.random)
	if err != nil {
		return nil, fmt.Errorf("random id: %w", err)
	}
	return &CACertificate{ID: id.String(), PEM: text}, nil
}

// changedCACertificate is caCertificate for a customer gateway that is there. New
// content takes the place of its own certificate, unless others share that.
func (s *Service) changedCACertificate(tx *transaction, req *CACertificateRequest, c *CustomerGateway) (*CACertificate, error) {
	if req == nil {
		return c.CACertificate, nil
	}
	all, err := tx.customerGateways(c.Project)
	if err != nil {
		return nil, err
	}
	if req.Content != nil && !updatable(c, all) {
		return nil, Invalid("ca_certificate.content", "other customer gateways share certificate %s", c.CACertificate.ID)
	}
	changed, err := s.caCertificate(req, c.CACertificate, all)
	if err == nil && c.CACertificate != nil && *changed == *c.CACertificate {
		return c.CACertificate, nil
	}
	return changed, err
}

// updatable tells whether a CA certificate is its customer gateway's alone.
func updatable(c *CustomerGateway, all []CustomerGateway) bool {
	return c.CACertificate == nil || !slices.ContainsFunc(all, func(o CustomerGateway) bool {
		return o.ID != c.ID && o.CACertificate != nil && o.CACertificate.ID == c.CACertificate.ID
	})
}

// CACertificateView is what the API shows of a CA certificate.
type CACertificateView struct {
	CertificateInfo
	ID        string
	Updatable bool // no other customer gateway shares it
}

// CACertificates returns what to show of the CA certificates of customer gateways of
// a project, by the id of the customer gateway. Those without one are not there.
func (s *Service) CACertificates(ctx context.Context, project string, of ...CustomerGateway) (map[string]CACertificateView, error) {
	views := map[string]CACertificateView{}
	if !slices.ContainsFunc(of, func(c CustomerGateway) bool { return c.CACertificate != nil }) {
		return views, nil
	}
	all, err := s.read(ctx).customerGateways(project)
	if err != nil {
		return nil, err
	}
	sharers := map[string]int{}
	for i := range all {
		if c := all[i].CACertificate; c != nil {
			sharers[c.ID]++
		}
	}
	for i := range of {
		c := of[i].CACertificate
		if c == nil {
			continue
		}
		chain, err := parseGMCertificates(c.PEM)
		if err != nil {
			return nil, fmt.Errorf("ca certificate %s of customer gateway %s: %w", c.ID, of[i].ID, err)
		}
		views[of[i].ID] = CACertificateView{CertificateInfo: gmInfo(chain[0]), ID: c.ID, Updatable: sharers[c.ID] <= 1}
	}
	return views, nil
}
