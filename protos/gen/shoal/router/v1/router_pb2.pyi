from shoal.common.v1 import chat_pb2 as _chat_pb2
from shoal.worker.v1 import pipeline_pb2 as _pipeline_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelReadiness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_READINESS_UNSPECIFIED: _ClassVar[ModelReadiness]
    MODEL_READINESS_READY: _ClassVar[ModelReadiness]
    MODEL_READINESS_LOADABLE: _ClassVar[ModelReadiness]
    MODEL_READINESS_LOADING: _ClassVar[ModelReadiness]
    MODEL_READINESS_INCOMPLETE: _ClassVar[ModelReadiness]
MODEL_READINESS_UNSPECIFIED: ModelReadiness
MODEL_READINESS_READY: ModelReadiness
MODEL_READINESS_LOADABLE: ModelReadiness
MODEL_READINESS_LOADING: ModelReadiness
MODEL_READINESS_INCOMPLETE: ModelReadiness

class PlanOpen(_message.Message):
    __slots__ = ("request_id", "model", "prompt_token_count", "max_tokens", "tenant", "session_id", "privacy", "prefix_block_hashes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    prompt_token_count: int
    max_tokens: int
    tenant: str
    session_id: str
    privacy: _chat_pb2.PrivacyLabel
    prefix_block_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., prompt_token_count: _Optional[int] = ..., max_tokens: _Optional[int] = ..., tenant: _Optional[str] = ..., session_id: _Optional[str] = ..., privacy: _Optional[_Union[_chat_pb2.PrivacyLabel, str]] = ..., prefix_block_hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

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
    __slots__ = ("position", "loading_percent")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOADING_PERCENT_FIELD_NUMBER: _ClassVar[int]
    position: int
    loading_percent: int
    def __init__(self, position: _Optional[int] = ..., loading_percent: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("attempt", "pipeline")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    pipeline: _pipeline_pb2.Pipeline
    def __init__(self, attempt: _Optional[int] = ..., pipeline: _Optional[_Union[_pipeline_pb2.Pipeline, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("model", "revision", "layer_count", "is_ready", "layers_missing", "context_length", "pipeline_count", "worker_count", "readiness", "loading_percent", "is_loadable")
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
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., layer_count: _Optional[int] = ..., is_ready: bool = ..., layers_missing: _Optional[_Iterable[_Union[_pipeline_pb2.LayerRange, _Mapping]]] = ..., context_length: _Optional[int] = ..., pipeline_count: _Optional[int] = ..., worker_count: _Optional[int] = ..., readiness: _Optional[_Union[ModelReadiness, str]] = ..., loading_percent: _Optional[int] = ..., is_loadable: bool = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ...) -> None: ...

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

class GetFleetResponse(_message.Message):
    __slots__ = ("workers", "pipelines")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[FleetWorker]
    pipelines: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.Pipeline]
    def __init__(self, workers: _Optional[_Iterable[_Union[FleetWorker, _Mapping]]] = ..., pipelines: _Optional[_Iterable[_Union[_pipeline_pb2.Pipeline, _Mapping]]] = ...) -> None: ...
