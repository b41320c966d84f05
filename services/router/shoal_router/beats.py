"""Owns: turning beat bytes into checked messages. Does not know: time, or what came before."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.errors import MalformedBeat

SUBJECT = "shoal.worker.*.beat"
BYTES_MAX = 256 * 1024
NAME_LENGTH_MAX = 256
ENGINE_COUNT_MAX = 64
LAYER_COUNT_MAX = 4096


def parse_beat(subject: str, payload: bytes) -> pb.WorkerBeat:
    """Raises MalformedBeat for anything that a worker of this protocol would not send."""
    if len(payload) > BYTES_MAX:
        raise MalformedBeat(f"the beat has {len(payload)} bytes; the limit is {BYTES_MAX} bytes")
    try:
        beat = pb.WorkerBeat.FromString(payload)
    except DecodeError as err:
        raise MalformedBeat("the beat is not a WorkerBeat message") from err
    if not _is_name(beat.node_id) or not _is_name(beat.incarnation):
        raise MalformedBeat("the beat lacks a node id or an incarnation, or has one too long")
    if subject != SUBJECT.replace("*", beat.node_id):
        raise MalformedBeat(f"the beat of {beat.node_id} came on the subject of another node")
    if len(beat.engines) > ENGINE_COUNT_MAX:
        raise MalformedBeat(f"the beat names {len(beat.engines)} engines, over {ENGINE_COUNT_MAX}")
    for engine in beat.engines:
        _check_engine(engine)
    return beat


def _check_engine(engine: pb.EngineStatus) -> None:
    """An engine that is not ready may not know its revision and range yet."""
    if not _is_name(engine.model):
        raise MalformedBeat("an engine has no model name, or one too long")
    if engine.layer_count > LAYER_COUNT_MAX:
        raise MalformedBeat(f"an engine has {engine.layer_count} layers, over {LAYER_COUNT_MAX}")
    if engine.state != pb.ENGINE_STATE_READY:
        return
    if not engine.layer_start < engine.layer_stop <= engine.layer_count:
        raise MalformedBeat(
            f"a ready engine holds {engine.layer_start}:{engine.layer_stop} "
            f"of {engine.layer_count} layers"
        )
    if not (_is_name(engine.revision) and _is_name(engine.incarnation)):
        raise MalformedBeat("a ready engine has no revision or no incarnation")
    if not engine.locator.startswith(("grpc:", "bridge:")) or len(engine.locator) > NAME_LENGTH_MAX:
        raise MalformedBeat("a ready engine has no locator of the form grpc:host:port")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_LENGTH_MAX
