from shoal.common.v1 import chat_pb2 as _chat_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reach(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REACH_UNSPECIFIED: _ClassVar[Reach]
    REACH_POOL: _ClassVar[Reach]
    REACH_LAN: _ClassVar[Reach]
    REACH_PUBLIC: _ClassVar[Reach]

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_FETCHING: _ClassVar[EngineState]
    ENGINE_STATE_LOADING: _ClassVar[EngineState]
    ENGINE_STATE_READY: _ClassVar[EngineState]
    ENGINE_STATE_DRAINING: _ClassVar[EngineState]
    ENGINE_STATE_FAILED: _ClassVar[EngineState]
REACH_UNSPECIFIED: Reach
REACH_POOL: Reach
REACH_LAN: Reach
REACH_PUBLIC: Reach
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_FETCHING: EngineState
ENGINE_STATE_LOADING: EngineState
ENGINE_STATE_READY: EngineState
ENGINE_STATE_DRAINING: EngineState
ENGINE_STATE_FAILED: EngineState

class LinkTime(_message.Message):
    __slots__ = ("node_id", "rtt_us", "bytes_per_s")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    rtt_us: int
    bytes_per_s: int
    def __init__(self, node_id: _Optional[str] = ..., rtt_us: _Optional[int] = ..., bytes_per_s: _Optional[int] = ...) -> None: ...

class LayerRange(_message.Message):
    __slots__ = ("layer_start", "layer_stop")
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    layer_start: int
    layer_stop: int
    def __init__(self, layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ...) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("model", "revision", "layer_start", "layer_stop", "layer_count", "state", "locator", "incarnation", "backend", "block_size_tokens", "kv_blocks_total", "kv_blocks_free", "running_count", "waiting_count", "context_length", "layer_time_us", "progress_percent", "detail", "weight_bytes", "idle_ms", "is_pinned", "memory_bytes", "layer_prefill_ns", "running_max", "kv_format", "shares_prefixes", "head_layers")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCATOR_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FREE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    LAYER_TIME_US_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    IS_PINNED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYER_PREFILL_NS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_MAX_FIELD_NUMBER: _ClassVar[int]
    KV_FORMAT_FIELD_NUMBER: _ClassVar[int]
    SHARES_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    HEAD_LAYERS_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    layer_start: int
    layer_stop: int
    layer_count: int
    state: EngineState
    locator: str
    incarnation: str
    backend: str
    block_size_tokens: int
    kv_blocks_total: int
    kv_blocks_free: int
    running_count: int
    waiting_count: int
    context_length: int
    layer_time_us: int
    progress_percent: int
    detail: str
    weight_bytes: int
    idle_ms: int
    is_pinned: bool
    memory_bytes: int
    layer_prefill_ns: int
    running_max: int
    kv_format: str
    shares_prefixes: bool
    head_layers: float
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ..., layer_count: _Optional[int] = ..., state: _Optional[_Union[EngineState, str]] = ..., locator: _Optional[str] = ..., incarnation: _Optional[str] = ..., backend: _Optional[str] = ..., block_size_tokens: _Optional[int] = ..., kv_blocks_total: _Optional[int] = ..., kv_blocks_free: _Optional[int] = ..., running_count: _Optional[int] = ..., waiting_count: _Optional[int] = ..., context_length: _Optional[int] = ..., layer_time_us: _Optional[int] = ..., progress_percent: _Optional[int] = ..., detail: _Optional[str] = ..., weight_bytes: _Optional[int] = ..., idle_ms: _Optional[int] = ..., is_pinned: bool = ..., memory_bytes: _Optional[int] = ..., layer_prefill_ns: _Optional[int] = ..., running_max: _Optional[int] = ..., kv_format: _Optional[str] = ..., shares_prefixes: bool = ..., head_layers: _Optional[float] = ...) -> None: ...

class WorkerBeat(_message.Message):
    __slots__ = ("node_id", "incarnation", "sequence", "agent_locator", "region", "engines", "memory_total_bytes", "memory_free_bytes", "core_count", "device", "is_leaving", "version", "host_id", "reach", "links", "memory_max_bytes", "is_locked")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGENT_LOCATOR_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CORE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_LOCKED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    sequence: int
    agent_locator: str
    region: str
    engines: _containers.RepeatedCompositeFieldContainer[EngineStatus]
    memory_total_bytes: int
    memory_free_bytes: int
    core_count: int
    device: str
    is_leaving: bool
    version: str
    host_id: str
    reach: Reach
    links: _containers.RepeatedCompositeFieldContainer[LinkTime]
    memory_max_bytes: int
    is_locked: bool
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., sequence: _Optional[int] = ..., agent_locator: _Optional[str] = ..., region: _Optional[str] = ..., engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ..., memory_total_bytes: _Optional[int] = ..., memory_free_bytes: _Optional[int] = ..., core_count: _Optional[int] = ..., device: _Optional[str] = ..., is_leaving: bool = ..., version: _Optional[str] = ..., host_id: _Optional[str] = ..., reach: _Optional[_Union[Reach, str]] = ..., links: _Optional[_Iterable[_Union[LinkTime, _Mapping]]] = ..., memory_max_bytes: _Optional[int] = ..., is_locked: bool = ...) -> None: ...

class PipelineStage(_message.Message):
    __slots__ = ("node_id", "incarnation", "layer_start", "layer_stop", "locator")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    LOCATOR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    layer_start: int
    layer_stop: int
    locator: str
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ..., locator: _Optional[str] = ...) -> None: ...

class Standby(_message.Message):
    __slots__ = ("stage_index", "stage")
    STAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    stage_index: int
    stage: PipelineStage
    def __init__(self, stage_index: _Optional[int] = ..., stage: _Optional[_Union[PipelineStage, _Mapping]] = ...) -> None: ...

class PrivacyProof(_message.Message):
    __slots__ = ("label", "is_boomerang", "stages")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IS_BOOMERANG_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    label: _chat_pb2.PrivacyLabel
    is_boomerang: bool
    stages: _containers.RepeatedCompositeFieldContainer[StagePrivacy]
    def __init__(self, label: _Optional[_Union[_chat_pb2.PrivacyLabel, str]] = ..., is_boomerang: bool = ..., stages: _Optional[_Iterable[_Union[StagePrivacy, _Mapping]]] = ...) -> None: ...

class StagePrivacy(_message.Message):
    __slots__ = ("node_id", "host_id", "reach")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    host_id: str
    reach: Reach
    def __init__(self, node_id: _Optional[str] = ..., host_id: _Optional[str] = ..., reach: _Optional[_Union[Reach, str]] = ...) -> None: ...

class Pipeline(_message.Message):
    __slots__ = ("pipeline_id", "revision", "model", "model_revision", "stages", "block_size_tokens", "context_length", "standbys", "privacy", "predicted_step_us")
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    STANDBYS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_US_FIELD_NUMBER: _ClassVar[int]
    pipeline_id: str
    revision: int
    model: str
    model_revision: str
    stages: _containers.RepeatedCompositeFieldContainer[PipelineStage]
    block_size_tokens: int
    context_length: int
    standbys: _containers.RepeatedCompositeFieldContainer[Standby]
    privacy: PrivacyProof
    predicted_step_us: int
    def __init__(self, pipeline_id: _Optional[str] = ..., revision: _Optional[int] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[PipelineStage, _Mapping]]] = ..., block_size_tokens: _Optional[int] = ..., context_length: _Optional[int] = ..., standbys: _Optional[_Iterable[_Union[Standby, _Mapping]]] = ..., privacy: _Optional[_Union[PrivacyProof, _Mapping]] = ..., predicted_step_us: _Optional[int] = ...) -> None: ...
