package etcd_test

import (
	"errors"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/control/store/etcd"
)

func openCluster(t *testing.T) *etcd.Cluster {
	t.Helper()
	servers := startServers(t, 1, "http")
	return open(t, etcd.Options{Endpoints: []string{servers[0].endpoint}})
}

func TestLease(t *testing.T) {
	c := openCluster(t)
	lease, ttl, err := c.Grant(t.Context(), 100*time.Second)
	if err != nil || ttl != 100*time.Second {
		t.Fatalf("Grant: %v, %v", ttl, err)
	}
	// What is put under the lease is there for all; the check counts as ever.
	first := []store.Check{{Key: "held"}}
	rev, err := c.TxnUnder(t.Context(), lease, first, []store.Op{store.Put("held", []byte("mine"))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.TxnUnder(t.Context(), lease, first, []store.Op{store.Put("held", nil)}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("second holder: %v, want ErrConflict", err)
	}
	put(t, c, "kept", "for ever")
	if ttl, err := c.Renew(t.Context(), lease); err != nil || ttl != 100*time.Second {
		t.Errorf("Renew: %v, %v", ttl, err)
	}
	if left, err := c.TimeToLive(t.Context(), lease); err != nil || left < 50*time.Second || left > 100*time.Second {
		t.Errorf("TimeToLive: %v, %v", left, err)
	}
	watch, err := c.Watch(t.Context(), "held", rev)
	if err != nil {
		t.Fatal(err)
	}

	if err := c.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	select {
	case events := <-watch:
		if len(events) != 1 || !events[0].Deleted || events[0].Key != "held" {
			t.Errorf("events %v, want the deletion", events)
		}
	case <-time.After(patience):
		t.Error("the end of the lease is not seen")
	}
	if _, err := c.Get(t.Context(), "held"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after the lease: %v, want ErrNotFound", err)
	}
	if _, err := c.Get(t.Context(), "kept"); err != nil {
		t.Error(err)
	}
	if _, err := c.Renew(t.Context(), lease); !errors.Is(err, store.ErrLapsed) {
		t.Errorf("Renew after the lease: %v, want ErrLapsed", err)
	}
	if _, err := c.TxnUnder(t.Context(), lease, nil, []store.Op{store.Put("late", nil)}); !errors.Is(err, store.ErrLapsed) {
		t.Errorf("TxnUnder after the lease: %v, want ErrLapsed", err)
	}
	if left, err := c.TimeToLive(t.Context(), lease); err != nil || left != 0 {
		t.Errorf("TimeToLive after the lease: %v, %v", left, err)
	}
	if err := c.Revoke(t.Context(), lease); err != nil {
		t.Errorf("Revoke again: %v", err)
	}
}

func TestLeaseLapses(t *testing.T) {
	c := openCluster(t)
	start := time.Now()
	lease, ttl, err := c.Grant(t.Context(), time.Second)
	if err != nil || ttl < time.Second {
		t.Fatalf("Grant: %v, %v", ttl, err)
	}
	rev, err := c.TxnUnder(t.Context(), lease, nil, []store.Op{store.Put("held", nil)})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := c.Watch(t.Context(), "held", rev)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-watch:
		if held := time.Since(start); held < ttl {
			t.Errorf("lapsed after %v, before its time to live of %v", held, ttl)
		}
	case <-time.After(patience):
		t.Error("the lease does not lapse")
	}
}
