// Package connlog writes the log of client connections to where the inventory
// says: files, syslog servers and HTTP servers.
//
//	Write ──▶ queue of a stream ──▶ batch ──▶ sink
//	             full: dropped        └─ again after a while, when it failed
//
// Write never waits. Each stream has a queue of its own, so one that fails
// holds up no other; what no longer fits into its queue is dropped and counted.
package connlog
