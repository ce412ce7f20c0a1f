package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

// Where objects are kept. Below each stands project/id.
const (
	prefixSpec             = "spec/"
	prefixGateways         = prefixSpec + string(KindGateway)
	prefixCustomerGateways = prefixSpec + string(KindCustomerGateway)
	prefixConnections      = prefixSpec + string(KindConnection)
	prefixMonitors         = prefixSpec + string(KindMonitor)
	prefixGatewayStatus    = "status/" + string(KindGateway)
	prefixConnectionStatus = "status/" + string(KindConnection)
	prefixMonitorStatus    = "status/" + string(KindMonitor)
	prefixConnectionLog    = "log/" + string(KindConnection)

	// keyGuard changes with every change to a specification. A writer checks
	// it, so the rules that span objects are decided on what is still true
	// when the decision is written.
	keyGuard = "guard"
)

const (
	changeAttempts = 32
	// maxChangePause bounds the wait before an attempt, which is random, so that
	// the writers of several nodes do not meet again, and short at first.
	maxChangePause = 64 * time.Millisecond
)

// Objects is the typed view of the store that the Service and the reconciler
// share. Its methods may be called from several goroutines.
type Objects struct {
	store store.Store
	key   *SealingKey

	gateways         store.Table[Gateway]
	customerGateways store.Table[CustomerGateway]
	connections      store.Table[storedConnection]
	monitors         store.Table[Monitor]
	gatewayStatus    store.Table[GatewayStatus]
	connectionStatus store.Table[ConnectionStatus]
	monitorStatus    store.Table[MonitorStatus]
	connectionLog    store.Table[[]LogLine]
	results          store.Table[storedResult]
	jobs             store.Table[Job]

	p2c p2cTables

	restoring atomic.Bool
	finishing sync.Mutex // held while a restore is carried out

	fence    atomic.Pointer[store.Check] // of reports; nil: none
	changing sync.Mutex                  // keeps writers of this process from conflicts
}

// storedConnection is a connection with its secrets sealed.
type storedConnection struct {
	Connection
	SealedPSK []byte `json:"sealed_psk,omitempty"`
	SealedPPK []byte `json:"sealed_ppk,omitempty"`
}

// NewObjects returns the view of a store whose secrets are sealed with key.
func NewObjects(s store.Store, key *SealingKey) *Objects {
	return &Objects{
		store:            s,
		key:              key,
		gateways:         store.NewSharedTable[Gateway](s, prefixGateways),
		customerGateways: store.NewSharedTable[CustomerGateway](s, prefixCustomerGateways),
		connections:      store.NewSharedTable[storedConnection](s, prefixConnections),
		monitors:         store.NewSharedTable[Monitor](s, prefixMonitors),
		monitorStatus:    store.NewSharedTable[MonitorStatus](s, prefixMonitorStatus),
		gatewayStatus:    store.NewSharedTable[GatewayStatus](s, prefixGatewayStatus),
		connectionStatus: store.NewSharedTable[ConnectionStatus](s, prefixConnectionStatus),
		connectionLog:    store.NewTable[[]LogLine](s, prefixConnectionLog),
		results:          store.NewTable[storedResult](s, prefixClientTokens),
		jobs:             store.NewTable[Job](s, prefixJobs),
		p2c:              newP2CTables(s),
	}
}

// Snapshot is every object as of one revision, with its status.
type Snapshot struct {
	Revision         int64  // Watch from here
	Epoch            string // another one after a restore
	Gateways         []Gateway
	CustomerGateways []CustomerGateway
	Connections      []Connection
	Monitors         []Monitor
	GatewayStatus    map[string]GatewayStatus    // by id
	ConnectionStatus map[string]ConnectionStatus // by id
	MonitorStatus    map[string]MonitorStatus    // by id

	P2CGateways      []P2CGateway
	Servers          []VPNServer
	Users            []VPNUser
	UserGroups       []UserGroup
	AccessPolicies   []AccessPolicy
	P2CGatewayStatus map[string]P2CGatewayStatus // by id
	ServerStatus     map[string]ServerStatus     // by id

	// Unreadable are the objects that could not be decoded, by id. They do not
	// stand in the lists above, except for connections and servers of which
	// nothing but the secrets cannot be opened: those stand there without.
	Unreadable map[string]error
	// DamagedStatus are the statuses that could not be decoded, by the id of
	// their object. They are to be written anew.
	DamagedStatus map[string]error
}

// Snapshot reads all objects. One that cannot be read does not hide the others.
// It fails with ErrRestoring while a restore is under way.
func (o *Objects) Snapshot(ctx context.Context) (*Snapshot, error) {
	s := &Snapshot{
		GatewayStatus:    map[string]GatewayStatus{},
		ConnectionStatus: map[string]ConnectionStatus{},
		MonitorStatus:    map[string]MonitorStatus{},
		P2CGatewayStatus: map[string]P2CGatewayStatus{},
		ServerStatus:     map[string]ServerStatus{},
		Unreadable:       map[string]error{},
		DamagedStatus:    map[string]error{},
	}
	entries, rev, err := o.store.List(ctx, prefixSpec)
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	s.Revision = rev
	restoring := slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Key == keyRestoring })
	if o.restoring.Store(restoring); restoring {
		return nil, fmt.Errorf("list objects: %w", ErrRestoring)
	}
	for _, e := range entries {
		if e.Key == keyEpoch {
			s.Epoch = string(e.Value)
		}
		kind, _, id, ok := splitSpecKey(e.Key)
		if !ok {
			continue
		}
		if err := o.decodeInto(s, kind, e); err != nil {
			s.Unreadable[id] = err
		}
	}
	err = errors.Join(
		s.readStatus(listStatus(ctx, o.gatewayStatus, s.GatewayStatus)),
		s.readStatus(listStatus(ctx, o.connectionStatus, s.ConnectionStatus)),
		s.readStatus(listStatus(ctx, o.monitorStatus, s.MonitorStatus)),
		s.readStatus(listStatus(ctx, o.p2c.gatewayStatus, s.P2CGatewayStatus)),
		s.readStatus(listStatus(ctx, o.p2c.serverStatus, s.ServerStatus)),
	)
	if err != nil {
		return nil, fmt.Errorf("list status: %w", err)
	}
	return s, nil
}

// listStatus reads a table of statuses, by the id of their object.
func listStatus[T any](ctx context.Context, t store.Table[T], into map[string]T) error {
	rows, _, err := t.List(ctx, "")
	for _, row := range rows {
		into[idOf(row.Key)] = row.Value
	}
	return err
}

// readStatus notes the damage of a table of statuses and returns other errors.
func (s *Snapshot) readStatus(err error) error {
	damaged := store.Damage(err)
	for _, d := range damaged {
		s.DamagedStatus[idOf(d.Key)] = d
	}
	if len(damaged) > 0 {
		return nil
	}
	return err
}

func (o *Objects) decodeInto(s *Snapshot, kind Kind, e store.Entry) error {
	switch kind {
	case KindGateway:
		row, err := o.gateways.Decode(e)
		if err != nil {
			return err
		}
		s.Gateways = append(s.Gateways, row.Value)
	case KindCustomerGateway:
		row, err := o.customerGateways.Decode(e)
		if err != nil {
			return err
		}
		s.CustomerGateways = append(s.CustomerGateways, row.Value)
	case KindConnection:
		row, err := o.connections.Decode(e)
		if err != nil {
			return err
		}
		// One whose secret cannot be opened stands there without it: it has a
		// status, can be deleted, and its traffic is not to leave in the clear.
		c, err := o.unseal(row.Value)
		s.Connections = append(s.Connections, c)
		return err
	case KindMonitor:
		row, err := o.monitors.Decode(e)
		if err != nil {
			return err
		}
		s.Monitors = append(s.Monitors, row.Value)
	default:
		return o.decodeP2CInto(s, kind, e)
	}
	return nil
}

// Change says that the specification of an object changed.
type Change struct {
	Kind    Kind
	Project string
	ID      string
	Deleted bool // finalised, it is gone
}

// Watch reports the changes to specifications after a revision, as
// store.Store.Watch does: when the channel is closed while ctx goes on, take a
// new Snapshot and watch from it. It fails with store.ErrCompacted likewise.
func (o *Objects) Watch(ctx context.Context, after int64) (<-chan []Change, error) {
	events, err := o.store.Watch(ctx, prefixSpec, after)
	if err != nil {
		return nil, err
	}
	changes := make(chan []Change)
	go func() {
		defer close(changes)
		for batch := range events {
			var out []Change
			for _, e := range batch {
				if kind, project, id, ok := splitSpecKey(e.Key); ok {
					out = append(out, Change{Kind: kind, Project: project, ID: id, Deleted: e.Deleted})
				}
			}
			select {
			case changes <- out:
			case <-ctx.Done():
				return
			}
		}
	}()
	return changes, nil
}

// Served is what the nodes of a fleet divide among them: the gateways of both
// kinds, of all projects.
type Served struct {
	Gateways    []Gateway
	P2CGateways []P2CGateway
	Revision    int64 // changes after it are told by watches of ServedPrefixes
}

// ServedPrefixes are what the keys of Served begin with in the store.
var ServedPrefixes = []string{prefixGateways + "/", prefixP2CGateways + "/"}

// Served reads the gateways, those that can be read.
func (o *Objects) Served(ctx context.Context) (Served, error) {
	var s Served
	gateways, rev, err := o.gateways.List(ctx, "")
	if err != nil && !store.IsDamaged(err) {
		return s, fmt.Errorf("list gateways: %w", err)
	}
	s.Revision = rev
	for _, row := range gateways {
		s.Gateways = append(s.Gateways, row.Value)
	}
	servers, _, err := o.p2c.gateways.List(ctx, "")
	if err != nil && !store.IsDamaged(err) {
		return s, fmt.Errorf("list client-to-cloud gateways: %w", err)
	}
	for _, row := range servers {
		s.P2CGateways = append(s.P2CGateways, row.Value)
	}
	return s, nil
}

// Log returns the log of a connection, newest line first.
func (o *Objects) Log(ctx context.Context, project, id string) ([]LogLine, error) {
	key, err := objectKey(project, id)
	if err != nil {
		return nil, err
	}
	row, err := o.connectionLog.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	slices.Reverse(row.Value)
	return row.Value, nil
}

// FinalizeGateway removes a gateway that was taken down: it must have been
// asked to be deleted and have no connections left. One that is gone is no
// error. It is for the reconciler alone.
func (o *Objects) FinalizeGateway(ctx context.Context, project, id string) error {
	return o.change(ctx, func(tx *transaction) error {
		g, err := tx.gateway(project, id)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case !g.DeletionRequested:
			return fmt.Errorf("gateway %s: its deletion was not asked for", id)
		}
		connections, err := tx.connections(project)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(connections, func(c Connection) bool { return c.GatewayID == id }) {
			return fmt.Errorf("gateway %s: it has connections", id)
		}
		key := project + "/" + id
		tx.ops = append(tx.ops, o.gateways.Delete(key), o.gatewayStatus.Delete(key))
		return tx.removeJobs(g.Meta)
	})
}

// FinalizeConnection removes a connection that was taken down, its status, its
// log and its monitor: it must have been asked to be deleted. One that is gone is no
// error. It is for the reconciler alone.
func (o *Objects) FinalizeConnection(ctx context.Context, project, id string) error {
	return o.change(ctx, func(tx *transaction) error {
		key, err := objectKey(project, id)
		if err != nil {
			return err
		}
		// A connection whose secret cannot be opened must still go.
		row, err := o.connections.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err != nil:
			return err
		case !row.Value.DeletionRequested:
			return fmt.Errorf("connection %s: its deletion was not asked for", id)
		}
		tx.ops = append(tx.ops, o.connections.Delete(key), o.connectionStatus.Delete(key), o.connectionLog.Delete(key))
		if id := row.Value.MonitorID; id != "" {
			tx.finalizeMonitor(project, id)
		}
		return nil
	})
}

func (o *Objects) seal(c Connection) storedConnection {
	s := storedConnection{Connection: c, SealedPSK: o.key.Seal(c.PSK, pskPlace(&c))}
	if !c.PPK.IsZero() {
		s.SealedPPK = o.key.Seal(c.PPK, ppkPlace(&c))
	}
	return s
}

func (o *Objects) unseal(s storedConnection) (Connection, error) {
	var err error
	s.PSK, err = o.key.Open(s.SealedPSK, pskPlace(&s.Connection))
	if err == nil && len(s.SealedPPK) > 0 {
		s.PPK, err = o.key.Open(s.SealedPPK, ppkPlace(&s.Connection))
	}
	return s.Connection, err
}

func pskPlace(c *Connection) string { return "psk of connection " + c.Project + "/" + c.ID }

func ppkPlace(c *Connection) string { return "ppk of connection " + c.Project + "/" + c.ID }

// transaction collects the changes of one write to specifications. What it
// reads cannot change before the changes are written: else all is done again.
type transaction struct {
	ctx     context.Context
	objects *Objects
	ops     []store.Op
}

// change runs decide and writes the changes it collected, at once or, when it
// fails, not at all. A decision that another writer has overtaken is repeated.
func (o *Objects) change(ctx context.Context, decide func(*transaction) error) error {
	o.changing.Lock()
	defer o.changing.Unlock()
	for attempt := range changeAttempts {
		if err := pauseBefore(ctx, attempt); err != nil {
			return err
		}
		guard, err := o.store.Get(ctx, keyGuard)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		tx := &transaction{ctx: ctx, objects: o}
		if err := decide(tx); err != nil || len(tx.ops) == 0 {
			note(ctx, guard.Modified)
			return err
		}
		changes, err := o.describe(ctx, tx.ops)
		if err != nil {
			return err
		}
		revision, err := o.store.Txn(ctx,
			[]store.Check{{Key: keyGuard, Revision: guard.Modified}, unlessRestoring()},
			append(tx.ops, store.Put(keyGuard, nil)))
		if err == nil {
			note(ctx, revision, changes...)
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		if _, err := o.store.Get(ctx, keyRestoring); err == nil {
			return Busy() // for longer than is worth waiting
		}
	}
	return Busy()
}

// pauseBefore waits before an attempt to change something, not before the first.
func pauseBefore(ctx context.Context, attempt int) error {
	if attempt == 0 {
		return nil
	}
	longest := min(time.Millisecond<<min(attempt-1, 16), maxChangePause)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (tx *transaction) gateway(project, id string) (Gateway, error) {
	return get(tx.ctx, tx.objects.gateways, project, id)
}

func (tx *transaction) customerGateway(project, id string) (CustomerGateway, error) {
	return get(tx.ctx, tx.objects.customerGateways, project, id)
}

// gateways returns those of a project, or of all when project is empty.
func (tx *transaction) gateways(project string) ([]Gateway, error) {
	return list(tx.ctx, tx.objects.gateways, project)
}

func (tx *transaction) customerGateways(project string) ([]CustomerGateway, error) {
	return list(tx.ctx, tx.objects.customerGateways, project)
}

// connections returns those of a project, without their secrets.
func (tx *transaction) connections(project string) ([]Connection, error) {
	stored, err := list(tx.ctx, tx.objects.connections, project)
	out := make([]Connection, len(stored))
	for i := range stored {
		out[i] = stored[i].Connection
	}
	return out, err
}

func (tx *transaction) putGateway(g Gateway) error {
	return put(tx, tx.objects.gateways, g.Meta, g)
}

func (tx *transaction) putCustomerGateway(c CustomerGateway) error {
	return put(tx, tx.objects.customerGateways, c.Meta, c)
}

// putConnection seals the secrets again only when one is another, so that what is
// stored changes with the secrets alone.
func (tx *transaction) putConnection(c Connection) error {
	before, err := get(tx.ctx, tx.objects.connections, c.Project, c.ID)
	if err != nil && !isNotFound(err) {
		return err
	}
	if err == nil {
		if was, err := tx.objects.unseal(before); err == nil && was.PSK.Equal(c.PSK) && was.PPK.Equal(c.PPK) {
			return put(tx, tx.objects.connections, c.Meta, storedConnection{
				Connection: c, SealedPSK: before.SealedPSK, SealedPPK: before.SealedPPK,
			})
		}
	}
	return put(tx, tx.objects.connections, c.Meta, tx.objects.seal(c))
}

// gatewayStatus returns the status of a gateway, the zero one where there is
// none yet or it is damaged.
func (tx *transaction) gatewayStatus(m Meta) (GatewayStatus, error) {
	return statusOf(tx.ctx, tx.objects.gatewayStatus, m)
}

// connectionStatus returns the status of a connection likewise.
func (tx *transaction) connectionStatus(m Meta) (ConnectionStatus, error) {
	return statusOf(tx.ctx, tx.objects.connectionStatus, m)
}

// monitorStatusOf returns the status of a monitor likewise.
func (o *Objects) monitorStatusOf(ctx context.Context, m Meta) (MonitorStatus, error) {
	return statusOf(ctx, o.monitorStatus, m)
}

// statusOf returns the status of an object, the zero one where there is none
// yet or it is damaged.
func statusOf[T any](ctx context.Context, t store.Table[T], m Meta) (T, error) {
	row, err := t.Get(ctx, m.Project+"/"+m.ID)
	if errors.Is(err, store.ErrNotFound) || store.IsDamaged(err) {
		err = nil
	}
	return row.Value, err
}

func put[T any](tx *transaction, t store.Table[T], m Meta, value T) error {
	op, err := t.Put(m.Project+"/"+m.ID, value)
	if err == nil {
		tx.ops = append(tx.ops, op)
	}
	return err
}

// get returns one object; an id that is not there yields the error that the
// caller of the API is shown.
func get[T any](ctx context.Context, t store.Table[T], project, id string) (T, error) {
	var none T
	key, err := objectKey(project, id)
	if err != nil {
		return none, err
	}
	row, err := t.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return none, NotFound()
	}
	return row.Value, err
}

// list returns the objects of a project, or of all. Those that are damaged do
// not keep the others from being worked with; the reconciler tells of them. What
// lies behind pointers, slices and maps is shared: see store.NewSharedTable.
func list[T any](ctx context.Context, t store.Table[T], project string) ([]T, error) {
	under := ""
	if project != "" {
		under = project + "/"
	}
	rows, _, err := t.List(ctx, under)
	if err != nil && !store.IsDamaged(err) {
		return nil, err
	}
	out := make([]T, len(rows))
	for i, row := range rows {
		out[i] = row.Value
	}
	return out, nil
}

// statuses returns those of a project's objects by their id. A damaged one is
// left out.
func statuses[T any](ctx context.Context, t store.Table[T], project string) (map[string]T, error) {
	rows, _, err := t.List(ctx, project+"/")
	if err != nil && !store.IsDamaged(err) {
		return nil, err
	}
	all := make(map[string]T, len(rows))
	for _, row := range rows {
		all[idOf(row.Key)] = row.Value
	}
	return all, nil
}

func byID[T any](objects []T, id func(*T) string) map[string]*T {
	all := make(map[string]*T, len(objects))
	for i := range objects {
		all[id(&objects[i])] = &objects[i]
	}
	return all
}

// objectKey joins project and id. Either could carry a slash that makes the
// key that of another project's object: then there is no such object.
func objectKey(project, id string) (string, error) {
	if project == "" || id == "" || len(project)+len(id) > 256 || strings.Contains(project+id, "/") {
		return "", NotFound()
	}
	return project + "/" + id, nil
}

func splitSpecKey(key string) (kind Kind, project, id string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, prefixSpec), "/")
	if len(parts) != 3 {
		return "", "", "", false
	}
	return Kind(parts[0]), parts[1], parts[2], true
}

func idOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

func isNotFound(err error) bool { return isCode(err, CodeNotFound) }

func isCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
