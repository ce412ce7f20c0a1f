// Package esp transforms the packets of one ESP security association
// (RFC 4303): Outbound seals, Inbound opens.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ----
//	|               Security Parameters Index (SPI)                 | ^
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ | integrity
//	|                      Sequence Number                          | | covers
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |
//	|                            IV                                 | |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ | ---
//	|                    Inner packet (variable)                    | |  ^
//	~                                                               ~ |  | encrypted
//	+               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |  |
//	|               |     Padding (0-15 octets)                     | |  |
//	+-+-+-+-+-+-+-+-+               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |  |
//	|                               |  Pad Length   | Next Header   | v  v
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ------
//	|                Integrity Check Value (ICV)                    |
//	~                                                               ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// Ciphers are AES-CBC (RFC 3602) and 3DES-CBC (RFC 2451) with HMAC (RFC 2403,
// 2404, 4868), AES-GCM with a 16 octet ICV (RFC 4106) and ChaCha20-Poly1305
// (RFC 7634), SM4-CBC with HMAC-SM3 and SM4-GCM (GM/T 0022). Sequence numbers are of 32 or, with ESN, of 64 bits.
//
// An Outbound and an Inbound hold what all workers share: counters, sequence
// number, replay window. Each worker has its own Sealer and Opener, which hold
// scratch space and so serve one goroutine at a time. Neither allocates.
//
// The package opens nothing, reads no clock, starts no goroutine and writes no
// log.
package esp
