from shoal.common.v1 import chat_pb2 as _chat_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_SPECULATE: _ClassVar[Verdict]
    VERDICT_RECOVER: _ClassVar[Verdict]
    VERDICT_ESCALATE: _ClassVar[Verdict]
    VERDICT_ACCEPT: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_SPECULATE: Verdict
VERDICT_RECOVER: Verdict
VERDICT_ESCALATE: Verdict
VERDICT_ACCEPT: Verdict

class AnswerRequest(_message.Message):
    __slots__ = ("request_id", "task", "remaining_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task: _chat_pb2.ChatTask
    remaining_ms: int
    def __init__(self, request_id: _Optional[str] = ..., task: _Optional[_Union[_chat_pb2.ChatTask, _Mapping]] = ..., remaining_ms: _Optional[int] = ...) -> None: ...

class CacheHit(_message.Message):
    __slots__ = ("text", "similarity", "age_s")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    text: str
    similarity: float
    age_s: int
    def __init__(self, text: _Optional[str] = ..., similarity: _Optional[float] = ..., age_s: _Optional[int] = ...) -> None: ...

class DraftDelta(_message.Message):
    __slots__ = ("text", "first_position", "entropy_bits")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_BITS_FIELD_NUMBER: _ClassVar[int]
    text: str
    first_position: int
    entropy_bits: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, text: _Optional[str] = ..., first_position: _Optional[int] = ..., entropy_bits: _Optional[_Iterable[float]] = ...) -> None: ...

class AnswerResponse(_message.Message):
    __slots__ = ("cache_hit", "draft", "verdict")
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    cache_hit: CacheHit
    draft: DraftDelta
    verdict: Verdict
    def __init__(self, cache_hit: _Optional[_Union[CacheHit, _Mapping]] = ..., draft: _Optional[_Union[DraftDelta, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, str]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("request_id", "texts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "token_count")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    token_count: int
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., token_count: _Optional[int] = ...) -> None: ...
