// Package ipsectest is for tests of and with data planes: Backend is a fake
// ipsec.Backend in memory, and Run is the conformance suite that every
// ipsec.Backend passes, the fake as well as the userspace and the kernel one.
package ipsectest
