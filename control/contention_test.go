package control

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/vpngw/vpngw/control/store"
)

// overtaken is a store in which another writer is always faster, as often as
// it is said.
type overtaken struct {
	store.Store
	times int
}

func (s *overtaken) Txn(ctx context.Context, checks []store.Check, ops []store.Op) (int64, error) {
	if s.times--; s.times >= 0 {
		return 0, fmt.Errorf("guard: %w", store.ErrConflict)
	}
	return s.Store.Txn(ctx, checks, ops)
}

func TestChangeIsRepeatedWhenOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &overtaken{Store: store.NewMemory()}
		w := newWorldOn(t, s)
		create := func(times int) error {
			s.times = times
			_, err := w.CreateCustomerGateway(t.Context(), project, CustomerGatewayCreate{IDValue: new(fmt.Sprintf("198.51.100.%d", times))})
			return err
		}
		for _, times := range []int{0, 1, changeAttempts - 1} {
			wantRefusal(t, create(times), "")
		}
		wantRefusal(t, create(changeAttempts), CodeBusy)
		l, err := w.ListCustomerGateways(t.Context(), project, CustomerGatewayFilter{})
		if err != nil || l.Total != 3 {
			t.Errorf("there are %d objects (%v), want each once", l.Total, err)
		}
	})
}

// Several nodes that share a store overtake each other all the time.
func TestNodesChangeAtOnce(t *testing.T) {
	w := userWorld(t)
	nodes := []*Service{w.Service}
	for range 2 {
		other, err := NewService(ServiceOptions{Objects: NewObjects(w.store, w.key), Inventory: inventory(t)})
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, other)
	}
	const perNode = 10
	var errs [3 * perNode]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = nodes[i%3].CreateUserGroup(t.Context(), project, serverOfUsers, UserGroupCreate{Name: new(fmt.Sprintf("group-%d", i))})
		})
	}
	wg.Wait()
	for _, err := range errs {
		wantP2C(t, err, "")
	}
	l, err := w.ListUserGroups(t.Context(), project, serverOfUsers, Page{})
	if err != nil || l.Total != 1+3*perNode {
		t.Errorf("%d groups, %v", l.Total, err)
	}
}
