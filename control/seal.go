package control

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vpngw/vpngw/control/store"
)

const sealingKeySize = 32

// SealingKey encrypts the secrets of stored objects, by AES-256-GCM with
// random nonces. The key is kept in a file apart from the store, so that a
// copy of the store alone reveals no secret.
type SealingKey struct {
	aead   cipher.AEAD
	tokens [sha256.Size]byte
}

// LoadSealingKey reads the key from a file of mode 0600. If there is none, a
// new key is made and written there first. Without its key a store's secrets
// are lost: keep a copy of the file.
func LoadSealingKey(path string) (*SealingKey, error) {
	key, err := ReadSealingKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createSealingKey(path); err != nil {
			return nil, fmt.Errorf("sealing key: %w", err)
		}
		return ReadSealingKey(path)
	}
	return key, err
}

// ReadSealingKey reads the key from a file of mode 0600, which must be there.
func ReadSealingKey(path string) (*SealingKey, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	defer clear(text)
	key := make([]byte, hex.DecodedLen(len(text)))
	defer clear(key)
	if _, err := hex.Decode(key, text); err != nil || len(key) != sealingKeySize {
		return nil, fmt.Errorf("sealing key %s: %d hexadecimal digits are wanted", path, 2*sealingKeySize)
	}
	return newSealingKey(key)
}

// LoadSealingKeyOf reads the key of a store as LoadSealingKey does. Beside a
// store that holds objects it makes no new key, which could open none of their
// secrets: there the file has to be brought back.
func LoadSealingKeyOf(ctx context.Context, s store.Store, path string) (*SealingKey, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		objects, _, err := s.List(ctx, prefixSpec)
		if err != nil {
			return nil, fmt.Errorf("sealing key: %w", err)
		}
		if len(objects) > 0 {
			return nil, fmt.Errorf("sealing key: %s is missing, and the store holds %d objects whose secrets it opens: restore the file from a copy",
				path, len(objects))
		}
	}
	return LoadSealingKey(path)
}

// keySealingCheck has a text that every node of a fleet can open.
const keySealingCheck = "sealing/check"

const sealingCheckText = "the sealing key of this store"

// CheckSealingKey makes sure that the nodes which share a store have one key:
// the first one leaves a value there, and it fails for a node whose key does
// not open it. A node with another key would take every secret for damaged, and
// leave some that no other node can open.
func CheckSealingKey(ctx context.Context, s store.Store, k *SealingKey) error {
	for {
		e, err := s.Get(ctx, keySealingCheck)
		if errors.Is(err, store.ErrNotFound) {
			sealed := k.Seal(NewSecret(sealingCheckText), keySealingCheck)
			_, err = s.Txn(ctx, []store.Check{{Key: keySealingCheck}}, []store.Op{store.Put(keySealingCheck, sealed)})
			if errors.Is(err, store.ErrConflict) {
				continue // another node was faster: the key is to fit its value
			}
		}
		if err != nil {
			return fmt.Errorf("sealing key: check against the store: %w", err)
		}
		if e.Value == nil {
			return nil
		}
		if text, err := k.Open(e.Value, keySealingCheck); err != nil || text.Reveal() != sealingCheckText {
			return errors.New("sealing key: it is not the one that the other nodes of this store have: copy the key file of one of them to this node")
		}
		return nil
	}
}

func newSealingKey(key []byte) (*SealingKey, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	k := &SealingKey{aead: aead}
	tokens, err := hkdf.Key(sha256.New, key, nil, "auth-tokens of VPN clients", len(k.tokens))
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	copy(k.tokens[:], tokens)
	clear(tokens)
	return k, nil
}

// AuthTokenKey returns the key of the tokens that VPN clients come back with:
// the same one after a restart, and on every node of a fleet. It is derived from
// the sealing key (RFC 5869), and reveals nothing of it.
func (o *Objects) AuthTokenKey() [sha256.Size]byte { return o.key.tokens }

func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o: others can read it, wanted is 0600", path, mode)
	}
	text := make([]byte, 2*sealingKeySize+1)
	n, err := f.Read(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text[:len(strings.TrimRight(string(text[:n]), "\n"))], nil
}

// createSealingKey writes a new key. The file appears whole or not at all, and
// never replaces one that another process made meanwhile.
func createSealingKey(path string) (err error) {
	key := make([]byte, sealingKeySize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sealing-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = fmt.Fprintf(f, "%x\n", key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Seal encrypts a secret for one place: it opens there only.
func (k *SealingKey) Seal(s Secret, place string) []byte {
	return k.aead.Seal(nil, nil, []byte(s.Reveal()), []byte(place))
}

// Open decrypts what Seal made for the same place.
func (k *SealingKey) Open(sealed []byte, place string) (Secret, error) {
	text, err := k.aead.Open(nil, nil, sealed, []byte(place))
	if err != nil {
		return Secret{}, fmt.Errorf("secret of %s: it was sealed with another key or damaged", place)
	}
	return NewSecret(string(text)), nil
}
