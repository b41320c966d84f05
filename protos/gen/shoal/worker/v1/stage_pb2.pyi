from shoal.common.v1 import chat_pb2 as _chat_pb2
from shoal.worker.v1 import kv_pb2 as _kv_pb2
from shoal.worker.v1 import pipeline_pb2 as _pipeline_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_TOOL_CALLS: _ClassVar[FinishReason]

class TensorDtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_DTYPE_UNSPECIFIED: _ClassVar[TensorDtype]
    TENSOR_DTYPE_F32: _ClassVar[TensorDtype]
    TENSOR_DTYPE_F16: _ClassVar[TensorDtype]
    TENSOR_DTYPE_BF16: _ClassVar[TensorDtype]

class TensorCodec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_CODEC_UNSPECIFIED: _ClassVar[TensorCodec]
    TENSOR_CODEC_RAW: _ClassVar[TensorCodec]
    TENSOR_CODEC_INT8_BLOCK32: _ClassVar[TensorCodec]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_TOOL_CALLS: FinishReason
TENSOR_DTYPE_UNSPECIFIED: TensorDtype
TENSOR_DTYPE_F32: TensorDtype
TENSOR_DTYPE_F16: TensorDtype
TENSOR_DTYPE_BF16: TensorDtype
TENSOR_CODEC_UNSPECIFIED: TensorCodec
TENSOR_CODEC_RAW: TensorCodec
TENSOR_CODEC_INT8_BLOCK32: TensorCodec

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "remaining_ms", "pipeline", "attempt", "token_ids", "chat_task", "generated", "sampling", "max_tokens", "stop_token_ids", "tenant", "adapter_id", "grammar", "ignore_eos", "keep_alive_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHAT_TASK_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    remaining_ms: int
    pipeline: _pipeline_pb2.Pipeline
    attempt: int
    token_ids: TokenIds
    chat_task: _chat_pb2.ChatTask
    generated: TokenIds
    sampling: _chat_pb2.SamplingSpec
    max_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    tenant: str
    adapter_id: str
    grammar: _chat_pb2.GrammarSpec
    ignore_eos: bool
    keep_alive_ms: int
    def __init__(self, request_id: _Optional[str] = ..., remaining_ms: _Optional[int] = ..., pipeline: _Optional[_Union[_pipeline_pb2.Pipeline, _Mapping]] = ..., attempt: _Optional[int] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., chat_task: _Optional[_Union[_chat_pb2.ChatTask, _Mapping]] = ..., generated: _Optional[_Union[TokenIds, _Mapping]] = ..., sampling: _Optional[_Union[_chat_pb2.SamplingSpec, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., tenant: _Optional[str] = ..., adapter_id: _Optional[str] = ..., grammar: _Optional[_Union[_chat_pb2.GrammarSpec, _Mapping]] = ..., ignore_eos: bool = ..., keep_alive_ms: _Optional[int] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token_id", "logprob")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class GeneratedToken(_message.Message):
    __slots__ = ("token_id", "logprob", "top")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class TokensDelta(_message.Message):
    __slots__ = ("first_position", "tokens")
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    first_position: int
    tokens: _containers.RepeatedCompositeFieldContainer[GeneratedToken]
    def __init__(self, first_position: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[GeneratedToken, _Mapping]]] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("first_position", "token_count", "text")
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    first_position: int
    token_count: int
    text: str
    def __init__(self, first_position: _Optional[int] = ..., token_count: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Admitted(_message.Message):
    __slots__ = ("cached_token_count", "queued_ms")
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MS_FIELD_NUMBER: _ClassVar[int]
    cached_token_count: int
    queued_ms: int
    def __init__(self, cached_token_count: _Optional[int] = ..., queued_ms: _Optional[int] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "prompt_token_count", "generated_token_count", "cached_token_count", "near_tie_count", "timings", "step_count")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    prompt_token_count: int
    generated_token_count: int
    cached_token_count: int
    near_tie_count: int
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    step_count: int
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., prompt_token_count: _Optional[int] = ..., generated_token_count: _Optional[int] = ..., cached_token_count: _Optional[int] = ..., near_tie_count: _Optional[int] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., step_count: _Optional[int] = ...) -> None: ...

class Alive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("admitted", "tokens", "text", "finished", "alive")
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    admitted: Admitted
    tokens: TokensDelta
    text: TextDelta
    finished: Finished
    alive: Alive
    def __init__(self, admitted: _Optional[_Union[Admitted, _Mapping]] = ..., tokens: _Optional[_Union[TokensDelta, _Mapping]] = ..., text: _Optional[_Union[TextDelta, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., alive: _Optional[_Union[Alive, _Mapping]] = ...) -> None: ...

class SequenceKey(_message.Message):
    __slots__ = ("sequence", "attempt")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    attempt: int
    def __init__(self, sequence: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class SamplingState(_message.Message):
    __slots__ = ("spec", "generated_ids", "prompt_ids", "grammar")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GENERATED_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    spec: _chat_pb2.SamplingSpec
    generated_ids: _containers.RepeatedScalarFieldContainer[int]
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    grammar: _chat_pb2.GrammarSpec
    def __init__(self, spec: _Optional[_Union[_chat_pb2.SamplingSpec, _Mapping]] = ..., generated_ids: _Optional[_Iterable[int]] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., grammar: _Optional[_Union[_chat_pb2.GrammarSpec, _Mapping]] = ...) -> None: ...

class LinkHello(_message.Message):
    __slots__ = ("node_id", "incarnation", "expected_incarnation")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    expected_incarnation: str
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., expected_incarnation: _Optional[str] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("key", "head_incarnation", "route", "layer_start", "layer_stop", "model_revision", "prefix_block_hashes", "blocks_wanted", "sampling", "remaining_ms", "lease_ms", "token_count")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_WANTED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    head_incarnation: str
    route: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.PipelineStage]
    layer_start: int
    layer_stop: int
    model_revision: str
    prefix_block_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    blocks_wanted: int
    sampling: SamplingState
    remaining_ms: int
    lease_ms: int
    token_count: int
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., head_incarnation: _Optional[str] = ..., route: _Optional[_Iterable[_Union[_pipeline_pb2.PipelineStage, _Mapping]]] = ..., layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ..., model_revision: _Optional[str] = ..., prefix_block_hashes: _Optional[_Iterable[bytes]] = ..., blocks_wanted: _Optional[int] = ..., sampling: _Optional[_Union[SamplingState, _Mapping]] = ..., remaining_ms: _Optional[int] = ..., lease_ms: _Optional[int] = ..., token_count: _Optional[int] = ...) -> None: ...

class Grow(_message.Message):
    __slots__ = ("key", "blocks_wanted")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_WANTED_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    blocks_wanted: int
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., blocks_wanted: _Optional[int] = ...) -> None: ...

class FrameRow(_message.Message):
    __slots__ = ("key", "position", "count", "wants_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WANTS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    position: int
    count: int
    wants_token: bool
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., position: _Optional[int] = ..., count: _Optional[int] = ..., wants_token: bool = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("step_id", "head_incarnation", "rows", "dtype", "codec", "width", "payload", "timings")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    head_incarnation: str
    rows: _containers.RepeatedCompositeFieldContainer[FrameRow]
    dtype: TensorDtype
    codec: TensorCodec
    width: int
    payload: bytes
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    def __init__(self, step_id: _Optional[int] = ..., head_incarnation: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[FrameRow, _Mapping]]] = ..., dtype: _Optional[_Union[TensorDtype, str]] = ..., codec: _Optional[_Union[TensorCodec, str]] = ..., width: _Optional[int] = ..., payload: _Optional[bytes] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ...) -> None: ...

class Detach(_message.Message):
    __slots__ = ("key", "block_hashes")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    block_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., block_hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("head_incarnation",)
    HEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    head_incarnation: str
    def __init__(self, head_incarnation: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("hello", "attach", "grow", "frame", "detach", "lease", "ping")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    GROW_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    hello: LinkHello
    attach: Attach
    grow: Grow
    frame: Frame
    detach: Detach
    lease: Lease
    ping: Ping
    def __init__(self, hello: _Optional[_Union[LinkHello, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., grow: _Optional[_Union[Grow, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., detach: _Optional[_Union[Detach, _Mapping]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class LinkReady(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    def __init__(self, incarnation: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("step_id", "head_incarnation")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    head_incarnation: str
    def __init__(self, step_id: _Optional[int] = ..., head_incarnation: _Optional[str] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("key", "blocks_held", "blocks_granted", "blocks_total")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_HELD_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_GRANTED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    blocks_held: int
    blocks_granted: int
    blocks_total: int
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., blocks_held: _Optional[int] = ..., blocks_granted: _Optional[int] = ..., blocks_total: _Optional[int] = ...) -> None: ...

class SequenceRefused(_message.Message):
    __slots__ = ("key", "reason", "detail", "node_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    reason: str
    detail: str
    node_id: str
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class LinkResponse(_message.Message):
    __slots__ = ("ready", "ack", "granted", "refused")
    READY_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ready: LinkReady
    ack: Ack
    granted: Granted
    refused: SequenceRefused
    def __init__(self, ready: _Optional[_Union[LinkReady, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., granted: _Optional[_Union[Granted, _Mapping]] = ..., refused: _Optional[_Union[SequenceRefused, _Mapping]] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("node_id", "layer_start", "layer_stop", "queue_us", "compute_us", "wire_us", "row_count")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LAYER_START_FIELD_NUMBER: _ClassVar[int]
    LAYER_STOP_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    WIRE_US_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    layer_start: int
    layer_stop: int
    queue_us: int
    compute_us: int
    wire_us: int
    row_count: int
    def __init__(self, node_id: _Optional[str] = ..., layer_start: _Optional[int] = ..., layer_stop: _Optional[int] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., wire_us: _Optional[int] = ..., row_count: _Optional[int] = ...) -> None: ...

class ResultsRequest(_message.Message):
    __slots__ = ("head_incarnation", "expected_incarnation")
    HEAD_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    head_incarnation: str
    expected_incarnation: str
    def __init__(self, head_incarnation: _Optional[str] = ..., expected_incarnation: _Optional[str] = ...) -> None: ...

class RowResult(_message.Message):
    __slots__ = ("key", "position", "token", "near_tie")
    KEY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIE_FIELD_NUMBER: _ClassVar[int]
    key: SequenceKey
    position: int
    token: GeneratedToken
    near_tie: bool
    def __init__(self, key: _Optional[_Union[SequenceKey, _Mapping]] = ..., position: _Optional[int] = ..., token: _Optional[_Union[GeneratedToken, _Mapping]] = ..., near_tie: bool = ...) -> None: ...

class ResultsResponse(_message.Message):
    __slots__ = ("step", "refused", "ready")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    step: StepResult
    refused: SequenceRefused
    ready: LinkReady
    def __init__(self, step: _Optional[_Union[StepResult, _Mapping]] = ..., refused: _Optional[_Union[SequenceRefused, _Mapping]] = ..., ready: _Optional[_Union[LinkReady, _Mapping]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("step_id", "rows", "timings")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    rows: _containers.RepeatedCompositeFieldContainer[RowResult]
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    def __init__(self, step_id: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[RowResult, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ...) -> None: ...

class GetEngineRequest(_message.Message):
    __slots__ = ("kv_sequence_seen",)
    KV_SEQUENCE_SEEN_FIELD_NUMBER: _ClassVar[int]
    kv_sequence_seen: int
    def __init__(self, kv_sequence_seen: _Optional[int] = ...) -> None: ...

class GetEngineResponse(_message.Message):
    __slots__ = ("engine", "sequence_count", "kv_ranges", "kv_sequence", "links")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    KV_RANGES_FIELD_NUMBER: _ClassVar[int]
    KV_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    engine: _pipeline_pb2.EngineStatus
    sequence_count: int
    kv_ranges: _containers.RepeatedCompositeFieldContainer[_kv_pb2.KvChanges]
    kv_sequence: int
    links: _containers.RepeatedCompositeFieldContainer[_pipeline_pb2.LinkTime]
    def __init__(self, engine: _Optional[_Union[_pipeline_pb2.EngineStatus, _Mapping]] = ..., sequence_count: _Optional[int] = ..., kv_ranges: _Optional[_Iterable[_Union[_kv_pb2.KvChanges, _Mapping]]] = ..., kv_sequence: _Optional[int] = ..., links: _Optional[_Iterable[_Union[_pipeline_pb2.LinkTime, _Mapping]]] = ...) -> None: ...
