// Package fleet divides the work of several nodes, which share one store, among
// them, and stops this node in time when it may have lost its share.
//
//	fleet/nodes/NAME             what a node says of itself
//	fleet/claims/address/ADDR    the node that serves an address of gateways
//	fleet/claims/active/ID       the node that carries an active-standby gateway
//	fleet/claims/steward         the node that looks after what none can serve
//
// A node has one lease in the cluster, and all its keys are under it: with the
// lease they go, all at once. A claim is made by a transaction that wants its
// key to be absent, so that each has one holder at a time. Claims have the names
// of the address and the gateway as the store has them, so that nodes whose
// inventories differ still mean the same.
//
// # Fencing
//
// A lease runs out in the cluster no earlier than its time to live after the
// last renewal was sent. The Keeper counts from that moment by the clock of its
// node since boot and takes off a margin; from then on Holds is false, which the
// sockets ask for each batch of packets. A process that was stopped, or a host
// that was suspended, finds the deadline passed when it goes on. Afterwards engines are cleared and
// addresses are removed; only then does the node ask for a new lease.
package fleet
