"""World errors of the shard-store.

ShoalError
├── InvalidRequest
│   ├── FolderNotAllowed    the path is outside the folders that may be imported
│   ├── UntrustedFolder     the folder holds something that is refused, or is damaged
│   ├── UnknownRevision     no such revision of a model that is known
│   ├── UnknownGroup        the model has no such layer, embedding or head
│   ├── UnknownBlob         no blob of that digest was ever stored
│   ├── InvalidByteRange    bytes beyond the end of a blob
│   ├── InvalidRepo         no name of a repository, file or URL that may be read
│   ├── SourceRefused       the hub wants another token, or has no such thing
│   ├── DownloadConflict    something else of the same model is being downloaded
│   └── UnsafeRedirect      a server sends us where we do not go
├── Overloaded
│   ├── TooManyImports      the queue of imports is full
│   ├── TooManyDownloads    the queue of downloads is full
│   └── SourceBusy          a server asks to come back later
├── Unavailable
│   ├── SourceChanged       the folder changed while it was read
│   ├── RemoteChanged       a file changed on its server while it was fetched
│   ├── SourceBroken        a server went away in the middle
│   ├── NoSource            nobody who is known has it
│   └── ModelIncomplete     layers of it were never fetched
├── CorruptBlob             a stored blob no longer matches its digest
├── DamagedManifest         a manifest contradicts itself or what is known
├── SourceLies              a server sent other bytes than it had announced
├── StorageFull             the disk cannot take the model
└── QuotaExceeded           the disk could, its owner does not want it
"""

from __future__ import annotations

import grpc

from shoal_common.errors import InvalidRequest, Overloaded, ShoalError, Unavailable


class FolderNotAllowed(InvalidRequest):
    """An import from a folder that nobody allowed."""

    reason = "FOLDER_NOT_ALLOWED"
    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403

    def __init__(self, path: str, roots: tuple[str, ...]) -> None:
        allowed = ", ".join(roots) if roots else "none"
        super().__init__(
            f"folder '{path}' may not be imported; allowed roots are: {allowed}; add one with "
            "SHOAL_SHARD_STORE_IMPORT_ROOTS",
            param="path",
        )


class UntrustedFolder(InvalidRequest):
    """A model folder is refused; nothing executable in it was opened."""

    reason = "UNTRUSTED_FOLDER"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422

    def __init__(self, file_name: str, problem: str, remedy: str) -> None:
        super().__init__(f"model refused: {file_name[:200]}: {problem}; {remedy}", param="path")
        self.file_name = file_name


class UnknownRevision(InvalidRequest):
    """The model is known, this revision of it is not."""

    reason = "UNKNOWN_REVISION"
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self, model: str, revision: str) -> None:
        super().__init__(
            f"model '{model}' has no revision '{revision[:80]}'; ask without one for the newest",
            param="revision",
        )


class UnknownGroup(InvalidRequest):
    """A name that is no part of the model."""

    reason = "UNKNOWN_GROUP"
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self, model: str, group: str) -> None:
        super().__init__(
            f"'{model}' has no part '{group[:80]}'; parts are embed, layer.0 and so on, head",
            param="groups",
        )


class UnknownBlob(InvalidRequest):
    """No blob of that digest."""

    reason = "UNKNOWN_BLOB"
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"there is no blob '{digest[:80]}'; if a manifest names it, import the model again",
            param="digest",
        )


class InvalidByteRange(InvalidRequest):
    """The bytes asked for are not all inside the blob."""

    reason = "INVALID_BYTE_RANGE"
    grpc_code = grpc.StatusCode.OUT_OF_RANGE
    http_status = 416

    def __init__(self, offset_bytes: int, length_bytes: int, size_bytes: int) -> None:
        super().__init__(
            f"bytes {offset_bytes} to {offset_bytes + length_bytes} were asked of a blob of "
            f"{size_bytes} bytes",
            param="offset_bytes",
        )


class TooManyImports(Overloaded):
    """The bounded queue of imports is full."""

    reason = "TOO_MANY_IMPORTS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} imports are running or waiting; try again when one has ended")


class SourceChanged(Unavailable):
    """A file of the folder was written while it was imported."""

    reason = "SOURCE_CHANGED"

    def __init__(self, file_name: str) -> None:
        super().__init__(
            f"{file_name[:200]} changed while it was imported; import again once it is complete"
        )


class CorruptBlob(ShoalError):
    """A blob is in quarantine: what is on disk is not what its digest says."""

    reason = "CORRUPT_BLOB"
    grpc_code = grpc.StatusCode.DATA_LOSS
    http_status = 500

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"blob {digest} does not match its digest and is in quarantine; import the model "
            "again to replace it, and check the disk"
        )
        self.digest = digest


class StorageFull(ShoalError):
    """Not enough room for what has to be written."""

    reason = "STORAGE_FULL"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 507

    def __init__(self, size_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{size_bytes} bytes are needed and {free_bytes} are free; free some space or move "
            "the data directory (SHOAL_DATA_DIR)"
        )


class InvalidRepo(InvalidRequest):
    """What was named cannot be fetched from."""

    reason = "INVALID_REPO"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"'{name[:140]}' cannot be fetched: {problem}", param="repo")


class SourceRefused(InvalidRequest):
    """A hub said no; asking again would change nothing."""

    reason = "SOURCE_REFUSED"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422

    def __init__(self, what: str, status: int) -> None:
        remedy = (
            "it is private or gated: accept its terms on the hub and set HF_TOKEN"
            if status in (401, 403)
            else "check the name"
        )
        super().__init__(f"{what[:200]}: the server answered {status}; {remedy}", param="repo")
        self.status = status


class UnsafeRedirect(InvalidRequest):
    """A redirect to a host that is not allowed, or away from https."""

    reason = "UNSAFE_REDIRECT"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(
            f"the server redirects to {host[:200]}: {problem}; hosts are allowed with "
            "SHOAL_SHARD_STORE_HUB_HOSTS",
            param="repo",
        )


class DownloadConflict(InvalidRequest):
    """Two different orders for one model."""

    reason = "DOWNLOAD_CONFLICT"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409

    def __init__(self, model: str) -> None:
        super().__init__(
            f"something else of '{model}' is being downloaded; wait for it or cancel it first",
            param="model",
        )


class TooManyDownloads(Overloaded):
    """The bounded queue of downloads is full."""

    reason = "TOO_MANY_DOWNLOADS"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} downloads are running or waiting; cancel one, or wait")


class SourceBusy(Overloaded):
    """Too many requests, or a server that is down for a moment."""

    reason = "SOURCE_BUSY"

    def __init__(self, what: str, status: int, retry_after_s: float) -> None:
        super().__init__(
            f"{what[:200]}: the server answered {status} and asks to wait {retry_after_s:g} s"
        )
        self.retry_after_s = retry_after_s


class RemoteChanged(Unavailable):
    """A file has another ETag than when its header was read."""

    reason = "REMOTE_CHANGED"

    def __init__(self, file_name: str) -> None:
        super().__init__(
            f"{file_name[:200]} changes on its server while it is fetched; try again later"
        )


class SourceBroken(Unavailable):
    """A connection that could not be made, or ended early."""

    reason = "SOURCE_BROKEN"

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what[:200]}: {problem}; asking again goes on where it ended")


class NoSource(Unavailable):
    """Neither a hub nor another shard-store has what is missing."""

    reason = "NO_SOURCE"

    def __init__(self, model: str, what: str) -> None:
        super().__init__(
            f"no shard-store that is known holds {what[:200]} of '{model}'; name the repository "
            "it comes from, or start the store that has it"
        )


class ModelIncomplete(Unavailable):
    """A model whose manifest lacks digests: nobody fetched those layers yet."""

    reason = "MODEL_INCOMPLETE"

    def __init__(self, model: str, missing: str) -> None:
        super().__init__(
            f"{missing[:200]} of '{model}' were fetched by no shard-store that is known; fetch "
            "them here or on another machine with `shoal models get`"
        )


class DamagedManifest(ShoalError):
    """A manifest from elsewhere is not one."""

    reason = "DAMAGED_MANIFEST"
    grpc_code = grpc.StatusCode.DATA_LOSS

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"the manifest of '{model[:140]}' is refused: {problem}")


class SourceLies(ShoalError):
    """Bytes or sizes other than announced; the sender is not asked again for a while."""

    reason = "SOURCE_LIES"
    grpc_code = grpc.StatusCode.DATA_LOSS
    http_status = 502

    def __init__(self, source: str, what: str, problem: str) -> None:
        super().__init__(f"{what[:200]} from {source[:200]}: {problem}; nothing of it was kept")


class QuotaExceeded(ShoalError):
    """The limit on disk use leaves no room, and nothing may be pruned."""

    reason = "QUOTA_EXCEEDED"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 507

    def __init__(self, needed_bytes: int, used_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{needed_bytes} bytes are needed, {used_bytes} of the allowed {limit_bytes} are in "
            "use and nothing can be pruned; remove a model (`shoal models rm`) or raise "
            "SHOAL_SHARD_STORE_MAX_DISK_MB"
        )
