from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReservationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESERVATION_STATE_UNSPECIFIED: _ClassVar[ReservationState]
    RESERVATION_STATE_PENDING: _ClassVar[ReservationState]
    RESERVATION_STATE_SETTLED: _ClassVar[ReservationState]
    RESERVATION_STATE_VOID: _ClassVar[ReservationState]
    RESERVATION_STATE_EXPIRED: _ClassVar[ReservationState]
RESERVATION_STATE_UNSPECIFIED: ReservationState
RESERVATION_STATE_PENDING: ReservationState
RESERVATION_STATE_SETTLED: ReservationState
RESERVATION_STATE_VOID: ReservationState
RESERVATION_STATE_EXPIRED: ReservationState

class ReserveRequest(_message.Message):
    __slots__ = ("request_id", "account_id", "credits_max", "ttl_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CREDITS_MAX_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    account_id: str
    credits_max: int
    ttl_ms: int
    def __init__(self, request_id: _Optional[str] = ..., account_id: _Optional[str] = ..., credits_max: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ReservationState
    def __init__(self, state: _Optional[_Union[ReservationState, str]] = ...) -> None: ...

class ServedShare(_message.Message):
    __slots__ = ("account_id", "layer_count")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    layer_count: int
    def __init__(self, account_id: _Optional[str] = ..., layer_count: _Optional[int] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("request_id", "token_count", "served")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    token_count: int
    served: _containers.RepeatedCompositeFieldContainer[ServedShare]
    def __init__(self, request_id: _Optional[str] = ..., token_count: _Optional[int] = ..., served: _Optional[_Iterable[_Union[ServedShare, _Mapping]]] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ("state", "credits_spent")
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_SPENT_FIELD_NUMBER: _ClassVar[int]
    state: ReservationState
    credits_spent: int
    def __init__(self, state: _Optional[_Union[ReservationState, str]] = ..., credits_spent: _Optional[int] = ...) -> None: ...

class VoidRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class VoidResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: ReservationState
    def __init__(self, state: _Optional[_Union[ReservationState, str]] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("balance_credits", "reserved_credits")
    BALANCE_CREDITS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_CREDITS_FIELD_NUMBER: _ClassVar[int]
    balance_credits: int
    reserved_credits: int
    def __init__(self, balance_credits: _Optional[int] = ..., reserved_credits: _Optional[int] = ...) -> None: ...
