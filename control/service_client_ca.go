package control

import (
	"context"
	"slices"
)

// CheckClientCA performs CheckClientCaCertificate: it tells what a certificate
// says, or why no server takes it. Nothing is stored.
func (s *Service) CheckClientCA(_ context.Context, project string, req ClientCARequest) (ClientCAView, error) {
	if err := validProject(project); err != nil {
		return ClientCAView{}, err
	}
	ca, _, err := parseClientCA("", req, s.random, s.now())
	if err != nil {
		return ClientCAView{}, err
	}
	return viewClientCA(&ca), nil
}

// ImportClientCA performs ImportClientCa. A server of either authentication type
// takes certificates; they count while clients authenticate by certificate.
func (s *Service) ImportClientCA(ctx context.Context, project, serverID string, req ClientCARequest) (id string, err error) {
	err = once(ctx, s, project, &id, func(tx *transaction) error {
		v, _, err := tx.readyServer(project, serverID, ServerActive)
		if err != nil {
			return err
		}
		s.touch(&v.Meta)
		ca, err := s.addClientCA(&v, "", req)
		if err != nil {
			return err
		}
		id = ca.ID
		return tx.putServer(v)
	})
	return id, err
}

// ShowClientCA performs ShowClientCa.
func (s *Service) ShowClientCA(ctx context.Context, project, serverID, id string) (ClientCAView, error) {
	v, err := s.read(ctx).server(project, serverID)
	if err != nil {
		return ClientCAView{}, err
	}
	i, err := v.clientCA(id)
	if err != nil {
		return ClientCAView{}, err
	}
	return viewClientCA(&v.ClientCAs[i]), nil
}

// RenameClientCA performs UpdateClientCa. The server is not worked on.
func (s *Service) RenameClientCA(ctx context.Context, project, serverID, id string, name *string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		v, _, err := tx.readyServer(project, serverID, ServerActive)
		if err != nil {
			return err
		}
		i, err := v.clientCA(id)
		if err != nil {
			return err
		}
		ca := &v.ClientCAs[i]
		before := ca.Name
		p := &parser{}
		p.plainName("name", name, &ca.Name)
		if err := p.result(); err != nil || ca.Name == before {
			return err
		}
		s.touchQuietly(&v.Meta)
		ca.UpdatedAt = v.UpdatedAt
		return tx.putServer(v)
	})
}

// DeleteClientCA performs DeleteClientCa. Without any certificate left, no client
// can authenticate by one.
func (s *Service) DeleteClientCA(ctx context.Context, project, serverID, id string) error {
	return s.objects.change(ctx, func(tx *transaction) error {
		v, _, err := tx.readyServer(project, serverID, ServerActive)
		if err != nil {
			return err
		}
		i, err := v.clientCA(id)
		if err != nil {
			return err
		}
		v.ClientCAs = slices.Delete(v.ClientCAs, i, i+1)
		s.touch(&v.Meta)
		return tx.putServer(v)
	})
}

// clientCA returns the place of a client CA certificate.
func (v *VPNServer) clientCA(id string) (int, error) {
	i := slices.IndexFunc(v.ClientCAs, func(c ClientCA) bool { return c.ID == id })
	if i < 0 {
		return i, noClientCA(id)
	}
	return i, nil
}
