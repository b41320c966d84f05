"""World errors of the shard-store.

ShoalError
├── InvalidRequest
│   ├── FolderNotAllowed    the path is outside the folders that may be imported
│   ├── UntrustedFolder     the folder holds something that is refused, or is damaged
│   ├── UnknownRevision     no such revision of a model that is known
│   ├── UnknownBlob         no blob of that digest was ever stored
│   └── InvalidByteRange    bytes beyond the end of a blob
├── Overloaded
│   └── TooManyImports      the queue of imports is full
├── Unavailable
│   └── SourceChanged       the folder changed while it was read
├── CorruptBlob             a stored blob no longer matches its digest
└── StorageFull             the disk cannot take the model
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
