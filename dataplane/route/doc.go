// Package route keeps the addresses, routes and routing rules that lead
// traffic into tunnels (Linux, by rtnetlink).
//
// A caller says what there is to be, and Manager.Set makes it so: it compares
// with what the kernel has, adds what lacks, removes what is too much, and
// leaves alone what is right, so that a change to one tunnel disturbs no other.
//
// What is ours bears Protocol in the kernel, on routes and rules and, from
// Linux 5.18 on, on addresses. Nothing else is ever changed. So a process that
// starts after a crash of the one before finds what that has left, and CleanUp
// removes it. Before Linux 5.18 addresses of an earlier process are not found;
// those on TUN devices have gone with it.
//
// Devices are not made here. A device that is missing is an error of the
// objects on it alone; the others are set all the same.
package route
