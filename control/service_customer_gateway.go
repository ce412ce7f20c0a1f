package control

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// CustomerGatewayFilter restricts a list. A zero member matches everything.
type CustomerGatewayFilter struct {
	ID   string
	Page Page
}

// CreateCustomerGateway performs CreateCgw.
func (s *Service) CreateCustomerGateway(ctx context.Context, project string, req CustomerGatewayCreate) (CustomerGateway, error) {
	if err := validProject(project); err != nil {
		return CustomerGateway{}, err
	}
	var c CustomerGateway
	err := once(ctx, s, project, &c, func(tx *transaction) error {
		defaults, err := customerGatewayDefaults(s.random)
		if err != nil {
			return err
		}
		if c, err = parseCustomerGateway(&req, defaults); err != nil {
			return err
		}
		others, err := tx.customerGateways(project)
		if err != nil {
			return err
		}
		if c.CACertificate, err = s.caCertificate(req.CACertificate, nil, others); err != nil {
			return err
		}
		if len(others) >= s.limits.customerGateways() {
			return quotaExceeded("customer gateways", s.limits.customerGateways())
		}
		c.Meta, err = s.newMeta(c.Meta, project, metas(others, func(c *CustomerGateway) Meta { return c.Meta }))
		if err != nil {
			return err
		}
		return tx.putCustomerGateway(c)
	})
	return c, err
}

// ShowCustomerGateway performs ShowCgw.
func (s *Service) ShowCustomerGateway(ctx context.Context, project, id string) (CustomerGateway, error) {
	return s.read(ctx).customerGateway(project, id)
}

// ListCustomerGateways performs ListCgws.
func (s *Service) ListCustomerGateways(ctx context.Context, project string, f CustomerGatewayFilter) (List[CustomerGateway], error) {
	if err := validProject(project); err != nil {
		return List[CustomerGateway]{}, err
	}
	all, err := s.read(ctx).customerGateways(project)
	if err != nil {
		return List[CustomerGateway]{}, err
	}
	total := len(all)
	found := slices.DeleteFunc(all, func(c CustomerGateway) bool { return f.ID != "" && f.ID != c.ID })
	l, err := paginate(found, func(c *CustomerGateway) time.Time { return c.CreatedAt }, f.Page, maxCustomerGatewayPage)
	l.Total = total
	return l, err
}

// UpdateCustomerGateway performs UpdateCgw.
func (s *Service) UpdateCustomerGateway(ctx context.Context, project, id string, req CustomerGatewayUpdate) (CustomerGateway, error) {
	var merged CustomerGateway
	err := s.objects.change(ctx, func(tx *transaction) error {
		c, err := tx.customerGateway(project, id)
		if err != nil {
			return err
		}
		if merged, err = s.changedCustomerGateway(tx, c, &req); err != nil || reflect.DeepEqual(merged, c) {
			return err
		}
		s.touch(&merged.Meta)
		return tx.putCustomerGateway(merged)
	})
	return merged, err
}

// changedCustomerGateway decides on a change of a customer gateway.
func (s *Service) changedCustomerGateway(tx *transaction, c CustomerGateway, req *CustomerGatewayUpdate) (CustomerGateway, error) {
	merged, err := mergeCustomerGateway(req, c)
	if err == nil {
		merged.CACertificate, err = s.changedCACertificate(tx, req.CACertificate, &c)
	}
	return merged, err
}

// DeleteCustomerGateway performs DeleteCgw. The customer gateway is gone when
// it returns.
func (s *Service) DeleteCustomerGateway(ctx context.Context, project, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		if _, err := tx.customerGateway(project, id); err != nil {
			return err
		}
		connections, err := tx.connections(project)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(connections, func(c Connection) bool { return c.CustomerGatewayID == id }) {
			return invalidRequest("customer gateway " + id + " has connection")
		}
		tx.ops = append(tx.ops, tx.objects.customerGateways.Delete(project+"/"+id))
		return nil
	})
}
