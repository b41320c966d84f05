from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DownloadState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOWNLOAD_STATE_UNSPECIFIED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_WAITING: _ClassVar[DownloadState]
    DOWNLOAD_STATE_PLANNING: _ClassVar[DownloadState]
    DOWNLOAD_STATE_RUNNING: _ClassVar[DownloadState]
    DOWNLOAD_STATE_COMPLETE: _ClassVar[DownloadState]
    DOWNLOAD_STATE_FAILED: _ClassVar[DownloadState]
    DOWNLOAD_STATE_CANCELLED: _ClassVar[DownloadState]
DOWNLOAD_STATE_UNSPECIFIED: DownloadState
DOWNLOAD_STATE_WAITING: DownloadState
DOWNLOAD_STATE_PLANNING: DownloadState
DOWNLOAD_STATE_RUNNING: DownloadState
DOWNLOAD_STATE_COMPLETE: DownloadState
DOWNLOAD_STATE_FAILED: DownloadState
DOWNLOAD_STATE_CANCELLED: DownloadState

class ImportModelRequest(_message.Message):
    __slots__ = ("request_id", "path", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    path: str
    model: str
    def __init__(self, request_id: _Optional[str] = ..., path: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ImportModelResponse(_message.Message):
    __slots__ = ("model", "bytes_done", "bytes_total", "is_complete", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: str
    bytes_done: int
    bytes_total: int
    is_complete: bool
    revision: str
    def __init__(self, model: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., is_complete: bool = ..., revision: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StoredModel(_message.Message):
    __slots__ = ("model", "revision", "architecture", "layer_count", "shard_count", "size_bytes", "is_complete", "layers_held", "holds_embed", "holds_head", "held_bytes", "source", "is_pinned", "is_draft")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_HELD_FIELD_NUMBER: _ClassVar[int]
    HOLDS_EMBED_FIELD_NUMBER: _ClassVar[int]
    HOLDS_HEAD_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IS_PINNED_FIELD_NUMBER: _ClassVar[int]
    IS_DRAFT_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    architecture: str
    layer_count: int
    shard_count: int
    size_bytes: int
    is_complete: bool
    layers_held: _containers.RepeatedCompositeFieldContainer[LayerSpan]
    holds_embed: bool
    holds_head: bool
    held_bytes: int
    source: str
    is_pinned: bool
    is_draft: bool
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., architecture: _Optional[str] = ..., layer_count: _Optional[int] = ..., shard_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., is_complete: bool = ..., layers_held: _Optional[_Iterable[_Union[LayerSpan, _Mapping]]] = ..., holds_embed: bool = ..., holds_head: bool = ..., held_bytes: _Optional[int] = ..., source: _Optional[str] = ..., is_pinned: bool = ..., is_draft: bool = ...) -> None: ...

class LayerSpan(_message.Message):
    __slots__ = ("layer_start", "layer_stop")
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    layer_start: int
    layer_stop: int
    def __init__(self, layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[StoredModel]
    def __init__(self, models: _Optional[_Iterable[_Union[StoredModel, _Mapping]]] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("model", "revision", "accepts_draft")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_DRAFT_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    accepts_draft: bool
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., accepts_draft: bool = ...) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("model", "revision", "manifest_json", "groups_held", "node_id", "reads_open")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    GROUPS_HELD_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    READS_OPEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    manifest_json: bytes
    groups_held: _containers.RepeatedScalarFieldContainer[str]
    node_id: str
    reads_open: int
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., manifest_json: _Optional[bytes] = ..., groups_held: _Optional[_Iterable[str]] = ..., node_id: _Optional[str] = ..., reads_open: _Optional[int] = ...) -> None: ...

class ReadBlobRequest(_message.Message):
    __slots__ = ("digest", "offset_bytes", "length_bytes", "is_local_only")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset_bytes: int
    length_bytes: int
    is_local_only: bool
    def __init__(self, digest: _Optional[str] = ..., offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ..., is_local_only: bool = ...) -> None: ...

class ReadBlobResponse(_message.Message):
    __slots__ = ("offset_bytes", "data")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class AcquireModelRequest(_message.Message):
    __slots__ = ("request_id", "repo", "repo_revision", "file", "model", "layers", "is_fair_share")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    REPO_REVISION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    IS_FAIR_SHARE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    repo: str
    repo_revision: str
    file: str
    model: str
    layers: LayerSpan
    is_fair_share: bool
    def __init__(self, request_id: _Optional[str] = ..., repo: _Optional[str] = ..., repo_revision: _Optional[str] = ..., file: _Optional[str] = ..., model: _Optional[str] = ..., layers: _Optional[_Union[LayerSpan, _Mapping]] = ..., is_fair_share: bool = ...) -> None: ...

class ShardDownload(_message.Message):
    __slots__ = ("name", "bytes_done", "bytes_total", "bytes_per_s", "source", "retry_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes_done: int
    bytes_total: int
    bytes_per_s: int
    source: str
    retry_count: int
    def __init__(self, name: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_per_s: _Optional[int] = ..., source: _Optional[str] = ..., retry_count: _Optional[int] = ...) -> None: ...

class Download(_message.Message):
    __slots__ = ("model", "repo", "state", "bytes_done", "bytes_total", "bytes_per_s", "shards", "shards_done", "shards_total", "detail", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_DONE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: str
    repo: str
    state: DownloadState
    bytes_done: int
    bytes_total: int
    bytes_per_s: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardDownload]
    shards_done: int
    shards_total: int
    detail: str
    revision: str
    def __init__(self, model: _Optional[str] = ..., repo: _Optional[str] = ..., state: _Optional[_Union[DownloadState, str]] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_per_s: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardDownload, _Mapping]]] = ..., shards_done: _Optional[int] = ..., shards_total: _Optional[int] = ..., detail: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class AcquireModelResponse(_message.Message):
    __slots__ = ("download",)
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    download: Download
    def __init__(self, download: _Optional[_Union[Download, _Mapping]] = ...) -> None: ...

class ListDownloadsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDownloadsResponse(_message.Message):
    __slots__ = ("downloads",)
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    downloads: _containers.RepeatedCompositeFieldContainer[Download]
    def __init__(self, downloads: _Optional[_Iterable[_Union[Download, _Mapping]]] = ...) -> None: ...

class CancelDownloadRequest(_message.Message):
    __slots__ = ("request_id", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class CancelDownloadResponse(_message.Message):
    __slots__ = ("was_cancelled",)
    WAS_CANCELLED_FIELD_NUMBER: _ClassVar[int]
    was_cancelled: bool
    def __init__(self, was_cancelled: bool = ...) -> None: ...

class PinModelRequest(_message.Message):
    __slots__ = ("request_id", "model", "groups")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class PinModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnpinModelRequest(_message.Message):
    __slots__ = ("request_id", "model", "groups")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class UnpinModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveModelRequest(_message.Message):
    __slots__ = ("request_id", "model", "layers")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    layers: LayerSpan
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., layers: _Optional[_Union[LayerSpan, _Mapping]] = ...) -> None: ...

class RemoveModelResponse(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("request_id", "model", "wanted_bytes", "is_dry_run")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    wanted_bytes: int
    is_dry_run: bool
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., wanted_bytes: _Optional[int] = ..., is_dry_run: bool = ...) -> None: ...

class PrunedGroup(_message.Message):
    __slots__ = ("model", "group", "size_bytes", "replica_count", "kept_because")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLICA_COUNT_FIELD_NUMBER: _ClassVar[int]
    KEPT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    model: str
    group: str
    size_bytes: int
    replica_count: int
    kept_because: str
    def __init__(self, model: _Optional[str] = ..., group: _Optional[str] = ..., size_bytes: _Optional[int] = ..., replica_count: _Optional[int] = ..., kept_because: _Optional[str] = ...) -> None: ...

class PruneResponse(_message.Message):
    __slots__ = ("groups", "freed_bytes")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[PrunedGroup]
    freed_bytes: int
    def __init__(self, groups: _Optional[_Iterable[_Union[PrunedGroup, _Mapping]]] = ..., freed_bytes: _Optional[int] = ...) -> None: ...
