from shoal.common.v1 import chat_pb2 as _chat_pb2
from shoal.router.v1 import router_pb2 as _router_pb2
from shoal.worker.v1 import stage_pb2 as _stage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DrafterKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DRAFTER_KIND_UNSPECIFIED: _ClassVar[DrafterKind]
    DRAFTER_KIND_NONE: _ClassVar[DrafterKind]
    DRAFTER_KIND_FLEET: _ClassVar[DrafterKind]
    DRAFTER_KIND_UPSTREAM: _ClassVar[DrafterKind]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_SPECULATE: _ClassVar[Verdict]
    VERDICT_RECOVER: _ClassVar[Verdict]
    VERDICT_ESCALATE: _ClassVar[Verdict]
    VERDICT_ACCEPT: _ClassVar[Verdict]

class CacheUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_USE_UNSPECIFIED: _ClassVar[CacheUse]
    CACHE_USE_REFRESH: _ClassVar[CacheUse]
    CACHE_USE_NONE: _ClassVar[CacheUse]

class CacheLayer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_LAYER_UNSPECIFIED: _ClassVar[CacheLayer]
    CACHE_LAYER_EXACT: _ClassVar[CacheLayer]
    CACHE_LAYER_SEMANTIC: _ClassVar[CacheLayer]
DRAFTER_KIND_UNSPECIFIED: DrafterKind
DRAFTER_KIND_NONE: DrafterKind
DRAFTER_KIND_FLEET: DrafterKind
DRAFTER_KIND_UPSTREAM: DrafterKind
VERDICT_UNSPECIFIED: Verdict
VERDICT_SPECULATE: Verdict
VERDICT_RECOVER: Verdict
VERDICT_ESCALATE: Verdict
VERDICT_ACCEPT: Verdict
CACHE_USE_UNSPECIFIED: CacheUse
CACHE_USE_REFRESH: CacheUse
CACHE_USE_NONE: CacheUse
CACHE_LAYER_UNSPECIFIED: CacheLayer
CACHE_LAYER_EXACT: CacheLayer
CACHE_LAYER_SEMANTIC: CacheLayer

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("incarnation", "kind", "model", "timeout_ms", "threshold", "window_size", "early_exit_count", "candidate_count", "is_speculative", "has_cache", "keeps_heavyweight", "embedding_model", "embedding_dimensions", "soft_threshold_mult", "statistic", "estimate", "embeds_itself")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
    EARLY_EXIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    IS_SPECULATIVE_FIELD_NUMBER: _ClassVar[int]
    HAS_CACHE_FIELD_NUMBER: _ClassVar[int]
    KEEPS_HEAVYWEIGHT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_MODEL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    SOFT_THRESHOLD_MULT_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    EMBEDS_ITSELF_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    kind: DrafterKind
    model: str
    timeout_ms: int
    threshold: float
    window_size: int
    early_exit_count: int
    candidate_count: int
    is_speculative: bool
    has_cache: bool
    keeps_heavyweight: bool
    embedding_model: str
    embedding_dimensions: int
    soft_threshold_mult: float
    statistic: str
    estimate: str
    embeds_itself: bool
    def __init__(self, incarnation: _Optional[str] = ..., kind: _Optional[_Union[DrafterKind, str]] = ..., model: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., threshold: _Optional[float] = ..., window_size: _Optional[int] = ..., early_exit_count: _Optional[int] = ..., candidate_count: _Optional[int] = ..., is_speculative: bool = ..., has_cache: bool = ..., keeps_heavyweight: bool = ..., embedding_model: _Optional[str] = ..., embedding_dimensions: _Optional[int] = ..., soft_threshold_mult: _Optional[float] = ..., statistic: _Optional[str] = ..., estimate: _Optional[str] = ..., embeds_itself: bool = ...) -> None: ...

class FleetDraft(_message.Message):
    __slots__ = ("plan", "generate", "vocabulary_size")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    plan: _router_pb2.PlanOpen
    generate: _stage_pb2.GenerateRequest
    vocabulary_size: int
    def __init__(self, plan: _Optional[_Union[_router_pb2.PlanOpen, _Mapping]] = ..., generate: _Optional[_Union[_stage_pb2.GenerateRequest, _Mapping]] = ..., vocabulary_size: _Optional[int] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("request_id", "task", "remaining_ms", "fleet_draft", "cache_use", "is_ungated", "stands_when_passed")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    FLEET_DRAFT_FIELD_NUMBER: _ClassVar[int]
    CACHE_USE_FIELD_NUMBER: _ClassVar[int]
    IS_UNGATED_FIELD_NUMBER: _ClassVar[int]
    STANDS_WHEN_PASSED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task: _chat_pb2.ChatTask
    remaining_ms: int
    fleet_draft: FleetDraft
    cache_use: CacheUse
    is_ungated: bool
    stands_when_passed: bool
    def __init__(self, request_id: _Optional[str] = ..., task: _Optional[_Union[_chat_pb2.ChatTask, _Mapping]] = ..., remaining_ms: _Optional[int] = ..., fleet_draft: _Optional[_Union[FleetDraft, _Mapping]] = ..., cache_use: _Optional[_Union[CacheUse, str]] = ..., is_ungated: bool = ..., stands_when_passed: bool = ...) -> None: ...

class CacheHit(_message.Message):
    __slots__ = ("text", "similarity", "age_s", "layer", "prompt_token_count", "completion_token_count", "answered_by")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    text: str
    similarity: float
    age_s: int
    layer: CacheLayer
    prompt_token_count: int
    completion_token_count: int
    answered_by: str
    def __init__(self, text: _Optional[str] = ..., similarity: _Optional[float] = ..., age_s: _Optional[int] = ..., layer: _Optional[_Union[CacheLayer, str]] = ..., prompt_token_count: _Optional[int] = ..., completion_token_count: _Optional[int] = ..., answered_by: _Optional[str] = ...) -> None: ...

class DraftBegun(_message.Message):
    __slots__ = ("plan", "admitted")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    plan: _router_pb2.Plan
    admitted: _stage_pb2.Admitted
    def __init__(self, plan: _Optional[_Union[_router_pb2.Plan, _Mapping]] = ..., admitted: _Optional[_Union[_stage_pb2.Admitted, _Mapping]] = ...) -> None: ...

class TokenDoubt(_message.Message):
    __slots__ = ("renormalised_bits", "lower_bits", "upper_bits", "margin", "is_known")
    RENORMALISED_BITS_FIELD_NUMBER: _ClassVar[int]
    LOWER_BITS_FIELD_NUMBER: _ClassVar[int]
    UPPER_BITS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    renormalised_bits: float
    lower_bits: float
    upper_bits: float
    margin: float
    is_known: bool
    def __init__(self, renormalised_bits: _Optional[float] = ..., lower_bits: _Optional[float] = ..., upper_bits: _Optional[float] = ..., margin: _Optional[float] = ..., is_known: bool = ...) -> None: ...

class DraftDelta(_message.Message):
    __slots__ = ("text", "first_position", "entropy_bits", "tokens", "settled_count", "doubts")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_BITS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DOUBTS_FIELD_NUMBER: _ClassVar[int]
    text: str
    first_position: int
    entropy_bits: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedCompositeFieldContainer[_stage_pb2.GeneratedToken]
    settled_count: int
    doubts: _containers.RepeatedCompositeFieldContainer[TokenDoubt]
    def __init__(self, text: _Optional[str] = ..., first_position: _Optional[int] = ..., entropy_bits: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[_Union[_stage_pb2.GeneratedToken, _Mapping]]] = ..., settled_count: _Optional[int] = ..., doubts: _Optional[_Iterable[_Union[TokenDoubt, _Mapping]]] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("verdict", "reason", "statistic", "position", "is_late")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    IS_LATE_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    reason: str
    statistic: float
    position: int
    is_late: bool
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ..., statistic: _Optional[float] = ..., position: _Optional[int] = ..., is_late: bool = ...) -> None: ...

class DraftEnd(_message.Message):
    __slots__ = ("reason", "prompt_token_count", "completion_token_count", "cached_token_count", "timings")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    reason: _stage_pb2.FinishReason
    prompt_token_count: int
    completion_token_count: int
    cached_token_count: int
    timings: _containers.RepeatedCompositeFieldContainer[_stage_pb2.StageTiming]
    def __init__(self, reason: _Optional[_Union[_stage_pb2.FinishReason, str]] = ..., prompt_token_count: _Optional[int] = ..., completion_token_count: _Optional[int] = ..., cached_token_count: _Optional[int] = ..., timings: _Optional[_Iterable[_Union[_stage_pb2.StageTiming, _Mapping]]] = ...) -> None: ...

class AnswerResponse(_message.Message):
    __slots__ = ("cache_hit", "draft", "judgement", "begun", "end")
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    JUDGEMENT_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    cache_hit: CacheHit
    draft: DraftDelta
    judgement: Judgement
    begun: DraftBegun
    end: DraftEnd
    def __init__(self, cache_hit: _Optional[_Union[CacheHit, _Mapping]] = ..., draft: _Optional[_Union[DraftDelta, _Mapping]] = ..., judgement: _Optional[_Union[Judgement, _Mapping]] = ..., begun: _Optional[_Union[DraftBegun, _Mapping]] = ..., end: _Optional[_Union[DraftEnd, _Mapping]] = ...) -> None: ...

class RememberRequest(_message.Message):
    __slots__ = ("request_id", "task", "text", "prompt_token_count", "completion_token_count", "answered_by")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task: _chat_pb2.ChatTask
    text: str
    prompt_token_count: int
    completion_token_count: int
    answered_by: str
    def __init__(self, request_id: _Optional[str] = ..., task: _Optional[_Union[_chat_pb2.ChatTask, _Mapping]] = ..., text: _Optional[str] = ..., prompt_token_count: _Optional[int] = ..., completion_token_count: _Optional[int] = ..., answered_by: _Optional[str] = ...) -> None: ...

class RememberResponse(_message.Message):
    __slots__ = ("is_kept",)
    IS_KEPT_FIELD_NUMBER: _ClassVar[int]
    is_kept: bool
    def __init__(self, is_kept: bool = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("request_id", "tenant", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    model: str
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ("forgotten_count",)
    FORGOTTEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    forgotten_count: int
    def __init__(self, forgotten_count: _Optional[int] = ...) -> None: ...

class GetCacheRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCacheResponse(_message.Message):
    __slots__ = ("is_enabled", "is_ready", "entry_count", "exact_hit_count", "semantic_hit_count", "miss_count", "guarded_count", "failure_count", "ttl_s", "similarity_threshold", "vector_store", "collection")
    IS_ENABLED_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    EXACT_HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MISS_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUARDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VECTOR_STORE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    is_enabled: bool
    is_ready: bool
    entry_count: int
    exact_hit_count: int
    semantic_hit_count: int
    miss_count: int
    guarded_count: int
    failure_count: int
    ttl_s: int
    similarity_threshold: float
    vector_store: str
    collection: str
    def __init__(self, is_enabled: bool = ..., is_ready: bool = ..., entry_count: _Optional[int] = ..., exact_hit_count: _Optional[int] = ..., semantic_hit_count: _Optional[int] = ..., miss_count: _Optional[int] = ..., guarded_count: _Optional[int] = ..., failure_count: _Optional[int] = ..., ttl_s: _Optional[int] = ..., similarity_threshold: _Optional[float] = ..., vector_store: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("embeddings", "token_count", "model")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    token_count: int
    model: str
    def __init__(self, embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., token_count: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...
