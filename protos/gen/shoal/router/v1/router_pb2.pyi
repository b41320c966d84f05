from shoal.common.v1 import chat_pb2 as _chat_pb2
from shoal.worker.v1 import pipeline_pb2 as _pipeline_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_BRONZE: _ClassVar[Tier]
    TIER_SILVER: _ClassVar[Tier]
    TIER_GOLD: _ClassVar[Tier]
    TIER_PLATINUM: _ClassVar[Tier]

class ModelReadiness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_READINESS_UNSPECIFIED: _ClassVar[ModelReadiness]
    MODEL_READINESS_READY: _ClassVar[ModelReadiness]
    MODEL_READINESS_LOADABLE: _ClassVar[ModelReadiness]
    MODEL_READINESS_LOADING: _ClassVar[ModelReadiness]
    MODEL_READINESS_INCOMPLETE: _ClassVar[ModelReadiness]
TIER_UNSPECIFIED: Tier
TIER_BRONZE: Tier
TIER_SILVER: Tier
TIER_GOLD: Tier
TIER_PLATINUM: Tier
MODEL_READINESS_UNSPECIFIED: ModelReadiness
MODEL_READINESS_READY: ModelReadiness
MODEL_READINESS_LOADABLE: ModelReadiness
MODEL_READINESS_LOADING: ModelReadiness
MODEL_READINESS_INCOMPLETE: ModelReadiness

class PlanOpen(_message.Message):
    __slots__ = ("request_id", "model", "prompt_token_count", "max_tokens", "tenant", "session_id", "privacy", "prefix_block_hashes", "driver_host_id", "wants_boomerang", "adapter_id", "remaining_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    DRIVER_HOST_ID_FIELD_NUMBER: _ClassVar[int]
    WANTS_BOOMERANG_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    prompt_token_count: int
    max_tokens: int
    tenant: str
    session_id: str
    privacy: _chat_pb2.PrivacyLabel
    prefix_block_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    driver_host_id: str
    wants_boomerang: bool
    adapter_id: str
    remaining_ms: int
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., prompt_token_count: _Optional[int] = ..., max_tokens: _Optional[int] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., privacy: _Optional[_Union[_chat_pb2.PrivacyLabel, str]] = ..., prefix_block_hashes: _Optional[_Iterable[bytes]] = ..., driver_host_id: _Optional[str] = ..., wants_boomerang: bool = ..., adapter_id: _Optional[str] = ..., remaining_ms: _Optional[int] = ...) -> None: ...

class StageLost(_message.Message):
    __slots__ = ("attempt", "node_id", "incarnation", "reason")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    node_id: str
    incarnation: str
    reason: str
    def __init__(self, attempt: _Optional[int] = ..., node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PlanProgress(_message.Message):
    __slots__ = ("token_count", "time_to_first_token_ms")
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    token_count: int
    time_to_first_token_ms: int
    def __init__(self, token_count: _Optional[int] = ..., time_to_first_token_ms: _Optional[int] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("open", "stage_lost", "progress")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STAGE_LOST_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    open: PlanOpen
    stage_lost: StageLost
    progress: PlanProgress
    def __init__(self, open: _Optional[_Union[PlanOpen, _Mapping]] = ..., stage_lost: _Optional[_Union[StageLost, _Mapping]] = ..., progress: _Optional[_Union[PlanProgress, _Mapping]] = ...) -> None: ...

class QueuePosition(_message.Message):
    __slots__ = ("position", "loading_percent", "expected_wait_ms")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOADING_PERCENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    position: int
    loading_percent: int
    expected_wait_ms: int
    def __init__(self, position: _Optional[int] = ..., loading_percent: _Optional[int] = ..., expected_wait_ms: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("attempt", "pipeline", "predicted_step_us", "held_token_count", "queued_ms")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_US_FIELD_NUMBER: _ClassVar[int]
    HELD_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    pipeline: _pipeline_pb2.Pipeline
    predicted_step_us: int
    held_token_count: int
    queued_ms: int
    def __init__(self, attempt: _Optional[int] = ..., pipeline: _Optional[_Union[_pipeline_pb2.Pipeline, _Mapping]] = ..., predicted_step_us: _Optional[int] = ..., held_token_count: _Optional[int] = ..., queued_ms: _Optional[int] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("queued", "plan")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    queued: QueuePosition
    plan: Plan
    def __init__(self, queued: _Optional[_Union[QueuePosition, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelState(_message.Message):
    __slots__ = ("model", "revision", "layer_count", "is_ready", "layers_missing", "context_length", "pipeline_count", "worker_count", "readiness", "loading_percent", "is_loadable", "kv_format", "block_size_tokens", "shares_prefixes", "waiting_count", "in_flight_count")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    LAYERS_MISSING_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_COUNT_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    LOADING_PERCENT_FIELD_NUMBER: _ClassVar[int]
    IS_LOADABLE_FIELD_NUMBER: _ClassVar[int]
    KV_FORMAT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARES_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    layer_count: int
    is_ready: bool
    layers_missing: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.LayerRange]
    context_length: int
    pipeline_count: int
    worker_count: int
    readiness: ModelReadiness
    loading_percent: int
    is_loadable: bool
    kv_format: str
    block_size_tokens: int
    shares_prefixes: bool
    waiting_count: int
    in_flight_count: int
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., layer_count: _Optional[int] = ..., is_ready: bool = ..., layers_missing: _Optional[_Iterable[_Union[_pipeline_pb2.LayerRange, _Mapping]]] = ..., context_length: _Optional[int] = ..., pipeline_count: _Optional[int] = ..., worker_count: _Optional[int] = ..., readiness: _Optional[_Union[ModelReadiness, str]] = ..., loading_percent: _Optional[int] = ..., is_loadable: bool = ..., kv_format: _Optional[str] = ..., block_size_tokens: _Optional[int] = ..., shares_prefixes: bool = ..., waiting_count: _Optional[int] = ..., in_flight_count: _Optional[int] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ...) -> None: ...

class ExplainPlanRequest(_message.Message):
    __slots__ = ("open",)
    OPEN_FIELD_NUMBER: _ClassVar[int]
    open: PlanOpen
    def __init__(self, open: _Optional[_Union[PlanOpen, _Mapping]] = ...) -> None: ...

class PlanCandidate(_message.Message):
    __slots__ = ("pipeline", "predicted_step_us", "tokens_per_s", "weight", "in_flight_count", "held_token_count", "cost_us", "is_chosen", "reason")
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_US_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    HELD_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COST_US_FIELD_NUMBER: _ClassVar[int]
    IS_CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    pipeline: _pipeline_pb2.Pipeline
    predicted_step_us: int
    tokens_per_s: float
    weight: float
    in_flight_count: int
    held_token_count: int
    cost_us: float
    is_chosen: bool
    reason: str
    def __init__(self, pipeline: _Optional[_Union[_pipeline_pb2.Pipeline, _Mapping]] = ..., predicted_step_us: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., weight: _Optional[float] = ..., in_flight_count: _Optional[int] = ..., held_token_count: _Optional[int] = ..., cost_us: _Optional[float] = ..., is_chosen: bool = ..., reason: _Optional[str] = ...) -> None: ...

class PlacementCandidate(_message.Message):
    __slots__ = ("name", "ranges", "tokens_per_s", "step_us", "is_chosen", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    IS_CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    ranges: _containers.RepeatedCompositeFieldContainer[PlacedRange]
    tokens_per_s: float
    step_us: int
    is_chosen: bool
    reason: str
    def __init__(self, name: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[PlacedRange, _Mapping]]] = ..., tokens_per_s: _Optional[float] = ..., step_us: _Optional[int] = ..., is_chosen: bool = ..., reason: _Optional[str] = ...) -> None: ...

class PlacedRange(_message.Message):
    __slots__ = ("node_id", "layers")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    layers: _pipeline_pb2.LayerRange
    def __init__(self, node_id: _Optional[str] = ..., layers: _Optional[_Union[_pipeline_pb2.LayerRange, _Mapping]] = ...) -> None: ...

class ExplainPlanResponse(_message.Message):
    __slots__ = ("candidates", "placements", "waiting_count", "tier", "problem")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[PlanCandidate]
    placements: _containers.RepeatedCompositeFieldContainer[PlacementCandidate]
    waiting_count: int
    tier: Tier
    problem: str
    def __init__(self, candidates: _Optional[_Iterable[_Union[PlanCandidate, _Mapping]]] = ..., placements: _Optional[_Iterable[_Union[PlacementCandidate, _Mapping]]] = ..., waiting_count: _Optional[int] = ..., tier: _Optional[_Union[Tier, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FleetWorker(_message.Message):
    __slots__ = ("beat", "silent_ms", "is_alive")
    BEAT_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    IS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    beat: _pipeline_pb2.WorkerBeat
    silent_ms: int
    is_alive: bool
    def __init__(self, beat: _Optional[_Union[_pipeline_pb2.WorkerBeat, _Mapping]] = ..., silent_ms: _Optional[int] = ..., is_alive: bool = ...) -> None: ...

class PipelineUse(_message.Message):
    __slots__ = ("pipeline_id", "predicted_step_us", "tokens_per_s", "weight", "in_flight_count")
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_US_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    pipeline_id: str
    predicted_step_us: int
    tokens_per_s: float
    weight: float
    in_flight_count: int
    def __init__(self, pipeline_id: _Optional[str] = ..., predicted_step_us: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., weight: _Optional[float] = ..., in_flight_count: _Optional[int] = ...) -> None: ...

class TierQueue(_message.Message):
    __slots__ = ("tier", "waiting_count")
    TIER_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    waiting_count: int
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., waiting_count: _Optional[int] = ...) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("workers", "pipelines", "uses", "queues", "waiting_max")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    WAITING_MAX_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[FleetWorker]
    pipelines: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.Pipeline]
    uses: _containers.RepeatedCompositeFieldContainer[PipelineUse]
    queues: _containers.RepeatedCompositeFieldContainer[TierQueue]
    waiting_max: int
    def __init__(self, workers: _Optional[_Iterable[_Union[FleetWorker, _Mapping]]] = ..., pipelines: _Optional[_Iterable[_Union[_pipeline_pb2.Pipeline, _Mapping]]] = ..., uses: _Optional[_Iterable[_Union[PipelineUse, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[TierQueue, _Mapping]]] = ..., waiting_max: _Optional[int] = ...) -> None: ...
