from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetIdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetIdentityResponse(_message.Message):
    __slots__ = ("public_key", "addresses")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, public_key: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class ListPeersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Peer(_message.Message):
    __slots__ = ("public_key", "nickname", "round_trip_ms")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    NICKNAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    nickname: str
    round_trip_ms: int
    def __init__(self, public_key: _Optional[bytes] = ..., nickname: _Optional[str] = ..., round_trip_ms: _Optional[int] = ...) -> None: ...

class ListPeersResponse(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class TunnelRequest(_message.Message):
    __slots__ = ("peer_public_key", "sealed_frame")
    PEER_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SEALED_FRAME_FIELD_NUMBER: _ClassVar[int]
    peer_public_key: bytes
    sealed_frame: bytes
    def __init__(self, peer_public_key: _Optional[bytes] = ..., sealed_frame: _Optional[bytes] = ...) -> None: ...

class TunnelResponse(_message.Message):
    __slots__ = ("sealed_frame",)
    SEALED_FRAME_FIELD_NUMBER: _ClassVar[int]
    sealed_frame: bytes
    def __init__(self, sealed_frame: _Optional[bytes] = ...) -> None: ...
