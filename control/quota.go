package control

import "context"

// Quota is how many objects of a kind a project may have, and has.
type Quota struct {
	Kind  Kind
	Limit int
	Used  int
}

// Quotas performs ShowQuotasInfo.
func (s *Service) Quotas(ctx context.Context, project string) ([]Quota, error) {
	quotas := []Quota{
		{Kind: KindGateway, Limit: s.limits.gateways()},
		{Kind: KindCustomerGateway, Limit: s.limits.customerGateways()},
		{Kind: KindConnection, Limit: s.limits.connections()},
	}
	for i := range quotas {
		objects, err := s.resources(ctx, project, quotas[i].Kind)
		if err != nil {
			return nil, err
		}
		quotas[i].Used = len(objects)
	}
	return quotas, nil
}
