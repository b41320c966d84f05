from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ModelAnnouncement(_message.Message):
    __slots__ = ("store_id", "model", "revision", "layer_count", "context_length", "weight_bytes", "parameter_count", "layer_bytes", "embed_bytes", "head_bytes", "ties_embeddings", "width", "kv_width")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAYER_BYTES_FIELD_NUMBER: _ClassVar[int]
    EMBED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIES_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    KV_WIDTH_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    model: str
    revision: str
    layer_count: int
    context_length: int
    weight_bytes: int
    parameter_count: int
    layer_bytes: int
    embed_bytes: int
    head_bytes: int
    ties_embeddings: bool
    width: int
    kv_width: int
    def __init__(self, store_id: _Optional[str] = ..., model: _Optional[str] = ..., revision: _Optional[str] = ..., layer_count: _Optional[int] = ..., context_length: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., parameter_count: _Optional[int] = ..., layer_bytes: _Optional[int] = ..., embed_bytes: _Optional[int] = ..., head_bytes: _Optional[int] = ..., ties_embeddings: bool = ..., width: _Optional[int] = ..., kv_width: _Optional[int] = ...) -> None: ...
