package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/api"
	"github.com/vpngw/vpngw/control/audit"
	"github.com/vpngw/vpngw/control/connlog"
	"github.com/vpngw/vpngw/control/fleet"
	"github.com/vpngw/vpngw/control/history"
	"github.com/vpngw/vpngw/control/nqa"
	"github.com/vpngw/vpngw/control/reconcile"
	"github.com/vpngw/vpngw/control/store"
	"github.com/vpngw/vpngw/dataplane"
	"github.com/vpngw/vpngw/dataplane/route"
	"github.com/vpngw/vpngw/dataplane/udp"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec/planes"
	"github.com/vpngw/vpngw/ipsec/xfrm"
	"github.com/vpngw/vpngw/sslvpn"
	"github.com/vpngw/vpngw/sslvpn/wire"
)

// Files in the data directory.
const (
	storeFile      = "vpngw.db"
	sealingKeyFile = "sealing.key"
)

// daemon is all parts of the gateway, wired.
type daemon struct {
	path   string // of the configuration
	config *config
	log    *slog.Logger
	level  *slog.LevelVar

	store      store.Store
	keeper     *fleet.Keeper // nil: this node is alone
	node       control.Node
	service    *control.Service
	access     *control.Access
	api        *api.Server
	mux        *udp.Mux
	engine     *dataplane.Engine
	kernel     *xfrm.Backend   // nil: it is not used
	kernelLack error           // why not
	planes     *planes.Backend // both data planes; nil without the kernel's
	routes     *route.Manager
	ike        *ike.Server
	prober     *nqa.Runner
	clients    *sslvpn.Server
	clientLog  *connlog.Log
	history    *history.Log
	drain      atomic.Pointer[config] // whose drain and inventory are in force
	reconciler *reconcile.Reconciler
	metrics    http.Handler

	stopPeers            context.CancelFunc // of the servers of peers and clients
	ikeDone, clientsDone chan struct{}      // closed when they have ended
	closers              []func() error     // of what newDaemon has opened, in that order
}

// newDaemon opens the store, the TUN device and the netlink sockets, and wires
// everything. Nothing runs or listens yet.
func newDaemon(ctx context.Context, c *config, path string, logTo io.Writer) (*daemon, error) {
	d := &daemon{path: path, config: c, level: new(slog.LevelVar), ikeDone: make(chan struct{}), clientsDone: make(chan struct{})}
	d.log = newLogger(c.Log, d.level, logTo)
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *daemon) open(ctx context.Context) error {
	c := d.config
	objects, err := d.openStore(ctx)
	if err != nil {
		return err
	}
	if err := d.openFleet(objects); err != nil {
		return err
	}
	if err := d.openEngines(objects); err != nil {
		return err
	}
	if d.history, err = history.Open(filepath.Join(c.DataDir, "history"), d.log.With("part", "history")); err != nil {
		return err
	}
	d.reconciler = reconcile.New(reconcile.Options{
		Objects: objects, KeyExchange: d.ike, Devices: d.backend(), Plane: d.planeOf, Policer: d.policer(), Router: d.routes, Sockets: d.mux, Prober: d.prober,
		Clients: d.clients, ClientLog: d.clientLog, History: d.history,
		Inventory: &c.Inventory, Fleet: d.fleet(), HostAddresses: addressSet, Farewell: d.farewell, Version: version,
		ForceEncap: c.Dataplane.ForceEncapsulation, MOBIKE: c.IKE.MOBIKE, Childless: c.IKE.Childless, RedirectTo: c.IKE.RedirectTargets,
		GM:        c.IKE.gmOptions(new(problems)),
		Lifetimes: reconcile.LifetimeLimits{IKE: c.IKE.MaxLifetime, Child: c.IKE.MaxChildLifetime, Authentication: c.IKE.AuthLifetime},
		PID:       os.Getpid(), Logger: d.log.With("part", "reconcile"),
	})
	if err := d.openAPI(objects); err != nil {
		return err
	}
	d.metrics = metricsHandler(engineFigures{
		connections: d.ike.Snapshot, ikeDrops: d.ike.DropCounts, ikeFailures: d.ike.FailureCounts, espDrops: neverFalling(d.espDrops), sockets: d.mux.Stats,
		clients: d.clients.Snapshot, lostEvents: d.clients.LostEvents,
		reconciler: d.reconciler.Stats, probes: d.reconciler.Probes, fleet: d.fleetStats(),
	}, d.ready, d.log.With("part", "metrics"))
	if d.keeper != nil {
		return d.keeper.Join(ctx)
	}
	return nil
}

func newLogger(c logConfig, level *slog.LevelVar, to io.Writer) *slog.Logger {
	_ = level.UnmarshalText([]byte(c.Level)) // loadConfig has checked it
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

func (d *daemon) openStore(ctx context.Context) (*control.Objects, error) {
	if err := os.MkdirAll(d.config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	var err error
	if d.config.Store.Backend == storeEtcd {
		d.store, err = d.openEtcd(ctx)
	} else {
		d.store, err = d.openBolt(ctx, filepath.Join(d.config.DataDir, storeFile))
	}
	if err != nil {
		return nil, err
	}
	d.onClose(d.store.Close)
	key, err := control.LoadSealingKeyOf(ctx, d.store, d.config.sealingKeyPath())
	if err != nil {
		return nil, err
	}
	if d.config.Store.Backend == storeEtcd {
		if err := control.CheckSealingKey(ctx, d.store, key); err != nil {
			return nil, err
		}
	}
	return control.NewObjects(d.store, key), nil
}

// storePatience is how long a start waits for the store: for the process
// before, which may have been killed and take its many devices down still, or
// for a cluster that starts together with this host.
const storePatience = 30 * time.Second

func (d *daemon) openBolt(ctx context.Context, path string) (store.Store, error) {
	for start := time.Now(); ; {
		db, err := store.OpenBolt(path)
		if err == nil {
			return db, nil
		}
		if !errors.Is(err, store.ErrLocked) || ctx.Err() != nil || time.Since(start) > storePatience {
			return nil, err
		}
		d.log.Warn("waiting for the store", "error", err)
	}
}

// openEngines opens the data planes and netlink, and makes the key exchange on
// top.
func (d *daemon) openEngines(objects *control.Objects) (err error) {
	if err := d.openDataPlanes(); err != nil {
		return err
	}
	if d.routes, err = route.NewManager(); err != nil {
		return err
	}
	d.onClose(func() error { d.routes.Close(); return nil })

	probes, err := nqa.OpenSocket()
	if err != nil {
		return err
	}
	d.onClose(func() error { _ = probes.Close(); return nil }) // which Run has done, if it ran
	probesV6, err := nqa.OpenSocketV6()
	if err != nil {
		d.log.Info("addresses of IPv6 cannot be probed", "error", err)
	} else {
		d.onClose(func() error { _ = probesV6.Close(); return nil })
	}
	d.prober = nqa.NewRunner(nqa.Options{Socket: probes, SocketV6: probesV6, Logger: d.log.With("part", "nqa")})

	var keys func(sa.Keys)
	if dir := d.config.Debug.KeyLogDir; dir != "" {
		k, err := newKeyLog(dir, d.log)
		if err != nil {
			return err
		}
		d.onClose(func() error { k.Close(); return nil })
		keys = k.write
	}
	r := d.config.IKE.Retransmit
	d.ike = ike.NewServer(ike.Options{
		Transport: d.mux, Backend: d.backend(), Logger: d.log.With("part", "ike"), KeyLog: keys,
		Retransmit: sa.Retransmit{Initial: r.Initial, Factor: r.Factor, Tries: r.Tries},
	})
	d.mux.OnIKE(d.ike.Deliver)
	d.setDrain(d.config)

	d.clientLog = connlog.New(d.log.With("part", "connlog"), d.config.Node.Name)
	d.onClose(d.clientLog.Close)
	d.clientLog.Apply(d.config.Inventory.LogStreams)
	d.clients = sslvpn.New(sslvpn.Options{
		Logger: d.log.With("part", "sslvpn"), VerifyPassword: verifyPassword, Guard: d.guard(), TokenKey: objects.AuthTokenKey(),
	})
	return nil
}

// verifyPassword compares the password of a client with what the store has.
func verifyPassword(hash, password string) bool {
	h, err := control.ParsePasswordHash(hash)
	return err == nil && h.Matches(control.NewSecret(password))
}

// wrapClientKey makes the key of a profile one that the server can open.
func wrapClientKey(serverKey, clientKey []byte, made time.Time) (wrapped []byte, id string, err error) {
	server, err := wire.NewTLSCryptV2(serverKey)
	if err != nil {
		return nil, "", err
	}
	wrapped, err = server.Wrap(clientKey, made)
	return wrapped, wire.ClientKeyIDOf(wrapped).String(), err
}

// socketsPerAddress is how many sockets share the encapsulated ESP of an
// address: as many as TUN devices have queues.
func socketsPerAddress(queues int) int {
	if queues > 0 {
		return queues
	}
	return min(runtime.GOMAXPROCS(0), 4)
}

func (d *daemon) openAPI(objects *control.Objects) (err error) {
	c := d.config
	d.service, err = control.NewService(control.ServiceOptions{
		Objects: objects, Inventory: &c.Inventory, Engines: d.reconciler, History: d.history, Limits: c.Limits, Version: version,
		Fleet: d.serviceFleet(), Node: d.node, WrapKey: wrapClientKey,
	})
	if err != nil {
		return err
	}
	d.access, err = control.NewAccess(control.AccessOptions{Store: d.store, Accounts: c.accounts()})
	if err != nil {
		return err
	}
	records, err := c.openAudit(d.log.With("part", "audit"))
	if err != nil {
		return err
	}
	d.onClose(records.Close)
	o := d.apiOptions()
	o.Service, o.Access, o.Logger, o.Audit = d.service, d.access, d.log.With("part", "api"), records
	d.api, err = api.New(o)
	return err
}

// apiOptions are those that say where the API listens.
func (d *daemon) apiOptions() api.Options {
	c := d.config
	return api.Options{
		Listen: c.API.Listen, DataDir: c.DataDir, Node: d.config.Node.Name,
		TLS: api.TLS{
			Mode: api.TLSMode(c.API.TLS.Mode), CertificateFile: c.API.TLS.CertificateFile, KeyFile: c.API.TLS.KeyFile,
		},
	}
}

// openAudit opens the audit log. Its file stands in the data directory unless
// its path is absolute.
func (c *config) openAudit(log *slog.Logger) (*audit.Log, error) {
	o := audit.Options{MaxSize: int64(c.Audit.MaxSizeMB) << 20, Keep: c.Audit.Keep, ToLog: c.Audit.Log, Logger: log}
	if c.Audit.File != "" {
		o.Path = c.Audit.File
		if !filepath.IsAbs(o.Path) {
			o.Path = filepath.Join(c.DataDir, o.Path)
		}
	}
	return audit.Open(o)
}

// accounts are all who may call the API.
func (c *config) accounts() control.Accounts {
	all := control.Accounts{Roles: c.API.Roles}
	for _, k := range c.API.Credentials {
		for _, in := range append([]projectConfig{{Role: k.Role, ProjectID: k.ProjectID}}, k.Projects...) {
			all.Credentials = append(all.Credentials, control.Credential{
				AccessKey: k.AccessKey, SecretKey: control.NewSecret(k.SecretKey), Role: control.Role(in.Role), Project: in.ProjectID,
			})
		}
	}
	for _, u := range c.API.Users {
		user := control.User{Domain: u.Domain, Name: u.Name}
		if u.PasswordHash != "" {
			user.Hash, _ = control.ParsePasswordHash(u.PasswordHash) // loadConfig has checked it
		} else {
			user.Password = control.NewSecret(u.Password)
		}
		for _, in := range append([]projectConfig{{u.Role, u.ProjectID, u.ProjectName}}, u.Projects...) {
			user.Role, user.Project, user.ProjectName = control.Role(in.Role), in.ProjectID, in.ProjectName
			all.Users = append(all.Users, user)
		}
	}
	return all
}

// addressSet returns the addresses of this node.
func addressSet() (map[netip.Addr]bool, error) {
	addresses, err := net.InterfaceAddrs()
	set := make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(network.IP); ok {
				set[ip.Unmap()] = true
			}
		}
	}
	return set, err
}

func (d *daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

// close closes what newDaemon opened, last first.
func (d *daemon) close() error {
	var errs []error
	for _, f := range slices.Backward(d.closers) {
		errs = append(errs, f())
	}
	d.closers = nil
	return errors.Join(errs...)
}

// run works until ctx ends or a part fails, and then stops all parts in order:
// the API takes no more requests; the reconciler has the key exchange tell the
// peers and removes what is ours from the node; then the data plane ends. For
// each hangup the configuration is read again.
func (d *daemon) run(ctx context.Context, hangup <-chan os.Signal) error {
	d.log.Info("vpngwd starts", "version", version, "node", d.config.Node.Name, "data_dir", d.config.DataDir)
	engines, stopEngines := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngines()
	peers, stopPeers := context.WithCancel(engines)
	d.stopPeers = stopPeers

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.engine.Run(engines) })
	if d.kernel != nil {
		g.Go(func() error { return d.kernel.Run(engines) })
		g.Go(func() error { return d.planes.Run(engines) })
	}
	g.Go(func() error { return d.prober.Run(engines) })
	g.Go(func() error {
		defer close(d.ikeDone)
		return d.ike.Run(peers)
	})
	g.Go(func() error {
		defer close(d.clientsDone)
		return d.clients.Run(peers)
	})
	share, leave := context.WithCancel(engines)
	g.Go(func() error {
		defer stopEngines()
		defer leave() // not before: others take over then
		return d.reconciler.Run(ctx)
	})
	if d.keeper != nil {
		g.Go(func() error { return d.keeper.Run(share) })
	}
	g.Go(func() error { return d.api.Run(ctx) })
	if listen := d.config.Metrics.Listen; listen != "" {
		g.Go(func() error { return serveMetrics(ctx, listen, d.metrics, d.log) })
	}
	g.Go(func() error { return d.reloadOnHangup(ctx, hangup) })
	err := errors.Join(g.Wait(), d.close())
	d.log.Info("vpngwd has stopped")
	return err
}

// farewell sends peers elsewhere that can be sent, ends the IKE server and that of
// the clients, and waits for them.
func (d *daemon) farewell() {
	d.sendAway()
	d.stopPeers()
	<-d.ikeDone
	<-d.clientsDone
}

// ready tells why the daemon cannot do its work yet.
func (d *daemon) ready(ctx context.Context) error {
	if !d.reconciler.Ready() {
		return errors.New("the stored objects are not applied yet")
	}
	if !d.api.Listening() {
		return errors.New("the API does not listen yet")
	}
	if d.keeper != nil {
		return d.keeper.Ready() // which renews its lease there
	}
	if _, _, err := d.store.List(ctx, "ready/"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// reloadOnHangup reads the configuration again at each hangup.
func (d *daemon) reloadOnHangup(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := d.reload(); err != nil {
				d.log.Error("configuration was not reloaded; the one before stays in force", "error", err)
			}
		}
	}
}

// reload takes over what may change while the daemon runs: log level, access
// to the API, inventory and drain. It names the rest that differs.
func (d *daemon) reload() error {
	next, err := loadConfig(d.path, os.Getenv)
	if err != nil {
		return err
	}
	if err := d.access.SetAccounts(next.accounts()); err != nil {
		return err
	}
	_ = d.level.UnmarshalText([]byte(next.Log.Level)) // loadConfig has checked it
	d.service.SetInventory(&next.Inventory)
	d.clientLog.Apply(next.Inventory.LogStreams)
	d.reconciler.SetInventory(&next.Inventory)
	d.setDrain(next)
	if d.keeper != nil {
		d.keeper.SetInventory(&next.Inventory)
	}
	d.log.Info("configuration reloaded", "file", d.path)
	if keys := next.restartKeys(d.config); len(keys) > 0 {
		d.log.Warn("some changes take effect at the next start only", "keys", keys)
	}
	return nil
}
