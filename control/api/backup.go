package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"

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

// maxBackup is how long a backup to be restored is at most when it is no longer
// compressed, in octets.
const maxBackup = 128 << 20

// RestoreStore replaces the store by a backup. One at a time is in memory.
func (h *handlers) RestoreStore(ctx context.Context, req RestoreStoreRequestObject) (RestoreStoreResponseObject, error) {
	if !h.server.backup.TryLock() {
		return nil, control.Busy()
	}
	defer h.server.backup.Unlock()
	plain, err := gzip.NewReader(bytes.NewReader(req.Body.Backup))
	if err != nil {
		return nil, control.Invalid("backup", "must be compressed by gzip")
	}
	bounded := &io.LimitedReader{R: plain, N: maxBackup + 1}
	info, err := h.server.service.Restore(ctx, bounded)
	if err != nil && bounded.N == 0 {
		return nil, control.Invalid("backup", "must have at most %d octets", maxBackup)
	}
	if err != nil {
		return nil, err
	}
	return RestoreStore200JSONResponse{TakenAt: control.FormatTime(info.Taken), Entries: info.Entries, RequestID: callOf(ctx).requestID}, nil
}
