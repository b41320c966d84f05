from shoal.shard_store.v1 import shard_store_pb2 as _shard_store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoreBeat(_message.Message):
    __slots__ = ("store_id", "node_id", "locator", "reads_open", "holdings", "is_leaving")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCATOR_FIELD_NUMBER: _ClassVar[int]
    READS_OPEN_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    node_id: str
    locator: str
    reads_open: int
    holdings: _containers.RepeatedCompositeFieldContainer[StoreHolding]
    is_leaving: bool
    def __init__(self, store_id: _Optional[str] = ..., node_id: _Optional[str] = ..., locator: _Optional[str] = ..., reads_open: _Optional[int] = ..., holdings: _Optional[_Iterable[_Union[StoreHolding, _Mapping]]] = ..., is_leaving: bool = ...) -> None: ...

class StoreHolding(_message.Message):
    __slots__ = ("model", "revision", "layout", "layers_held", "holds_embed", "holds_head", "digest_count")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_HELD_FIELD_NUMBER: _ClassVar[int]
    HOLDS_EMBED_FIELD_NUMBER: _ClassVar[int]
    HOLDS_HEAD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    layout: str
    layers_held: _containers.RepeatedCompositeFieldContainer[_shard_store_pb2.LayerSpan]
    holds_embed: bool
    holds_head: bool
    digest_count: int
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., layout: _Optional[str] = ..., layers_held: _Optional[_Iterable[_Union[_shard_store_pb2.LayerSpan, _Mapping]]] = ..., holds_embed: bool = ..., holds_head: bool = ..., digest_count: _Optional[int] = ...) -> None: ...
