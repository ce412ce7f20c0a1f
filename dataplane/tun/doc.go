// Package tun moves IP packets between the kernel and a user space data plane
// in large pieces.
//
// A Device has queues. What a queue gives or takes is a frame: a virtio network
// header of HeaderLen octets and then one IP packet, which may be a
// super-packet of up to 64 KB that stands for many packets of one TCP or UDP
// flow. Segments cuts such a frame into packets without copying the payload;
// a Coalescer goes the other way and joins neighbouring packets of a flow into
// one write.
//
//	kernel ── frame ──► Queue.Read ──► Segments ──► packet, packet, …
//	kernel ◄── frame ── Writer.Write ◄── Coalescer ◄── packet, packet, …
//
// Open makes a Linux TUN device. Channel is a Device for tests.
package tun
