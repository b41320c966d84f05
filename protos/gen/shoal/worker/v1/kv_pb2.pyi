from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KvChanges(_message.Message):
    __slots__ = ("node_id", "incarnation", "model", "model_revision", "layer_start", "layer_stop", "block_size_tokens", "sequence", "is_snapshot", "stored", "forgotten")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IS_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    model: str
    model_revision: str
    layer_start: int
    layer_stop: int
    block_size_tokens: int
    sequence: int
    is_snapshot: bool
    stored: _containers.RepeatedScalarFieldContainer[bytes]
    forgotten: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ..., block_size_tokens: _Optional[int] = ..., sequence: _Optional[int] = ..., is_snapshot: bool = ..., stored: _Optional[_Iterable[bytes]] = ..., forgotten: _Optional[_Iterable[bytes]] = ...) -> None: ...

class KvSnapshot(_message.Message):
    __slots__ = ("engines",)
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[KvChanges]
    def __init__(self, engines: _Optional[_Iterable[_Union[KvChanges, _Mapping]]] = ...) -> None: ...
