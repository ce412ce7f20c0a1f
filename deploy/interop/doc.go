// Package interop holds the matrix of tunnels between the built daemon and the
// stock IPsec of other makers: strongSwan with ESP in userspace, and, in
// user-mode Linux, strongSwan and libreswan with the ESP of the kernel.
//
//	make interop    # or: go test -tags e2e ./deploy/interop/
//	make uml        # the peers that need a kernel with ESP
//
// A cell is one tunnel: a version and mode of IKE, who begins, algorithms, a NAT
// or none, selectors or routes. The cells of a peer are a covering array: any two
// choices that can go together meet in at least one. All cells of a peer are up
// at once, at one daemon, and each is looked at alone: what the peer says was
// negotiated, packets both ways against the counters of both ends, and that the
// peer sees the end. The results are in docs/interop.md, which each run compares
// itself with; with -update it is written.
package interop
