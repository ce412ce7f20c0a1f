package api

import (
	"bytes"
	"context"

	"github.com/vpngw/vpngw/control"
)

// BackupStore sends a backup of the store. One at a time is in memory.
func (h *handlers) BackupStore(ctx context.Context, _ BackupStoreRequestObject) (BackupStoreResponseObject, error) {
	if !h.server.backup.TryLock() {
		return nil, control.Busy()
	}
	defer h.server.backup.Unlock()
	var backup bytes.Buffer
	if err := h.server.service.Backup(ctx, &backup); err != nil {
		return nil, err
	}
	return BackupStore200ApplicationXNdjsonResponse{Body: &backup, ContentLength: int64(backup.Len())}, nil
}
