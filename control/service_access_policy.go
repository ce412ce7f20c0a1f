package control

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// AccessPolicyView is a policy as the API shows it.
type AccessPolicyView struct {
	AccessPolicy
	GroupName string
}

// CreateAccessPolicy performs CreateVpnAccessPolicy.
func (s *Service) CreateAccessPolicy(ctx context.Context, project, serverID string, req AccessPolicyCreate) (AccessPolicy, error) {
	var policy AccessPolicy
	err := once(ctx, s, project, &policy, func(tx *transaction) error {
		r, err := tx.rosterToExtend(project, serverID)
		if err != nil {
			return err
		}
		if policy, err = parseAccessPolicy(&req); err != nil {
			return err
		}
		if err := policyFits(r, &policy); err != nil {
			return err
		}
		if err := policiesFit(r); err != nil {
			return err
		}
		policy.ServerID = serverID
		policy.Meta, err = s.newMeta(policy.Meta, project, metas(r.policies, func(a *AccessPolicy) Meta { return a.Meta }))
		if err != nil {
			return err
		}
		return tx.putAccessPolicy(policy)
	})
	return policy, err
}

// ShowAccessPolicy performs ShowVpnAccessPolicy.
func (s *Service) ShowAccessPolicy(ctx context.Context, project, serverID, id string) (AccessPolicyView, error) {
	tx := s.read(ctx)
	if _, err := tx.server(project, serverID); err != nil {
		return AccessPolicyView{}, err
	}
	a, err := tx.accessPolicy(project, id)
	if err == nil && a.ServerID != serverID {
		err = noAccessPolicy()
	}
	if err != nil {
		return AccessPolicyView{}, err
	}
	r, err := tx.rosterOfGroup(project, a.GroupID)
	return r.viewPolicy(a), err
}

// policy returns the policy of an id, nil when the server has none such.
func (r *roster) policy(id string) *AccessPolicy {
	i := slices.IndexFunc(r.policies, func(a AccessPolicy) bool { return a.ID == id })
	if i < 0 {
		return nil
	}
	return &r.policies[i]
}

func (r *roster) viewPolicy(a AccessPolicy) AccessPolicyView {
	v := AccessPolicyView{AccessPolicy: a}
	if g := r.group(a.GroupID); g != nil {
		v.GroupName = g.Name
	}
	return v
}

// ListAccessPolicies performs ListVpnAccessPolicies.
func (s *Service) ListAccessPolicies(ctx context.Context, project, serverID string, page Page) (List[AccessPolicyView], error) {
	var views List[AccessPolicyView]
	r, err := s.read(ctx).roster(project, serverID)
	if err != nil {
		return views, err
	}
	l, err := paginateP2C(r.policies, func(a *AccessPolicy) time.Time { return a.CreatedAt }, page)
	views.Total, views.NextMarker = l.Total, l.NextMarker
	for _, a := range l.Items {
		views.Items = append(views.Items, r.viewPolicy(a))
	}
	return views, err
}

// UpdateAccessPolicy performs UpdateVpnAccessPolicy.
func (s *Service) UpdateAccessPolicy(ctx context.Context, project, serverID, id string, req AccessPolicyUpdate) (AccessPolicyView, error) {
	var view AccessPolicyView
	err := s.changePolicy(ctx, project, serverID, id, func(tx *transaction, r *roster, a *AccessPolicy) error {
		merged, err := mergeAccessPolicy(&req, *a)
		if err != nil {
			return err
		}
		if err := policyFits(r, &merged); err != nil {
			return err
		}
		if changed := !reflect.DeepEqual(merged, *a); changed {
			s.touch(&merged.Meta)
			err = tx.putAccessPolicy(merged)
		}
		view = r.viewPolicy(merged)
		return err
	})
	return view, err
}

// DeleteAccessPolicy performs DeleteVpnAccessPolicy.
func (s *Service) DeleteAccessPolicy(ctx context.Context, project, serverID, id string) error {
	return s.changePolicy(ctx, project, serverID, id, func(tx *transaction, _ *roster, a *AccessPolicy) error {
		tx.deleteAccessPolicy(a.Meta)
		return nil
	})
}

func (s *Service) changePolicy(ctx context.Context, project, serverID, id string, edit func(*transaction, *roster, *AccessPolicy) error) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		r, err := tx.rosterToChange(project, serverID)
		if err != nil {
			return err
		}
		a := r.policy(id)
		if a == nil {
			return noAccessPolicy()
		}
		if err := policyIsCustom(a); err != nil {
			return err
		}
		return edit(tx, r, a)
	})
}
