"""Errors on the wire, addresses, sockets, and peers that die."""

from __future__ import annotations

import asyncio
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import shoal_engine.errors  # noqa: F401 (its leaves are part of the tree)
from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.errors import (
    Internal,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    RequestTooLarge,
    ShoalError,
    StageFailed,
    Unavailable,
    UnknownModel,
)
from shoal_common.rpc import (
    RpcChannel,
    RpcServer,
    address_of,
    deadline,
    locator,
    to_shoal_error,
    translated,
)
from shoal_common.rpc.deadline import shortened
from shoal_common.rpc.status import DETAILS_KEY, to_status


def tree(root: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def of(kind: type[ShoalError], message: str = "what went wrong") -> ShoalError:
    """An instance, whatever its constructor asks for."""
    error = kind.__new__(kind, message)
    error.__dict__["count"] = 3
    return error


def received(error: ShoalError) -> ShoalError:
    """`error` as the other side of a call gets it."""
    code, details, trailers = to_status(error)
    return to_shoal_error(failed(code, details, trailers))


def failed(
    code: grpc.StatusCode, details: str = "", trailers: tuple[tuple[str, Any], ...] = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=details
    )


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_class_survives_the_wire(kind: type[ShoalError]) -> None:
    error = received(of(kind))
    # A class without a reason of its own arrives as the one whose reason it has.
    named = next(each for each in kind.__mro__ if "reason" in vars(each))
    assert type(error) is (Internal if named is ShoalError else named)
    assert str(error) == "what went wrong"
    assert vars(error)["count"] == 3
    assert error.reason == kind.reason


def test_fields_keep_their_types_and_params() -> None:
    stage = received(StageFailed("node-1", "silent"))
    assert isinstance(stage, StageFailed)
    assert (stage.node_id, stage.detail) == ("node-1", "silent")
    model = received(UnknownModel("llama"))
    assert isinstance(model, UnknownModel)
    assert model.param == "model"
    prompt = received(PromptTooLong(10, 5))
    assert isinstance(prompt, PromptTooLong)
    assert "10 tokens" in str(prompt)
    assert vars(received(InvalidRequest("no")))["param"] is None


def test_huge_error_stays_below_what_peers_accept_in_trailers() -> None:
    error = InvalidRequest("ä" * 100_000, param="p" * 100_000)
    error.__dict__.update({f"field_{number}": "x" * 10_000 for number in range(100)})
    _, details, trailers = to_status(error)
    assert len(details.encode()) * 3 + len(trailers[0][1]) < 16_000
    assert isinstance(received(error), InvalidRequest)


def test_peer_cannot_set_what_is_not_data() -> None:
    error = of(Overloaded)
    error.__dict__.update(retryable=False, args="gone", with_traceback="gone", fine=1)
    rebuilt = received(error)
    assert rebuilt.retryable is True
    assert "with_traceback" not in vars(rebuilt)
    assert vars(rebuilt)["fine"] == 1


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", Unavailable),
        (grpc.StatusCode.CANCELLED, "CANCELLED", Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max", RequestTooLarge),
        (grpc.StatusCode.NOT_FOUND, "", InvalidRequest),
        (grpc.StatusCode.UNKNOWN, "", Internal),
        (grpc.StatusCode.DATA_LOSS, "", Internal),
    ],
)
def test_status_of_others_becomes_a_class_by_its_code(
    code: grpc.StatusCode, message: str, kind: type[ShoalError]
) -> None:
    assert type(to_shoal_error(failed(code, message))) is kind


@pytest.mark.parametrize("details", [b"\xff\xff nonsense", b""])
def test_damaged_details_fall_back_to_the_code(details: bytes) -> None:
    error = failed(grpc.StatusCode.UNAVAILABLE, "x", ((DETAILS_KEY, details),))
    assert type(to_shoal_error(error)) is Unavailable


def test_a_peers_error_of_a_class_unknown_here_keeps_its_words() -> None:
    status = status_pb2.Status(code=14, message="nobody has it")
    info = error_details_pb2.ErrorInfo(reason="KNOWN_ELSEWHERE", domain="shoal")
    status.details.add().Pack(info)
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    error = to_shoal_error(failed(grpc.StatusCode.UNAVAILABLE, "nobody has it", trailers))
    assert (type(error), str(error)) == (Unavailable, "nobody has it")


def test_translated_names_the_cause() -> None:
    cause = failed(grpc.StatusCode.UNAVAILABLE, "gone")
    with pytest.raises(Unavailable) as caught, translated():
        raise cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("address", ["127.0.0.1:7002", "router:7002", "[::1]:1", "unix:/a/b"])
def test_locator_and_address_are_inverse(address: str) -> None:
    assert address_of(locator(address)) == address
    assert address_of(address) == address


@pytest.mark.parametrize("text", ["", "grpc:", "host", "host:port", "host:70000", "bridge:a:1"])
def test_other_locators_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        address_of(text)


def test_socket_path_beyond_the_system_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="107"):
        RpcServer(f"unix:/{'x' * 120}")


def test_inner_deadline_never_outlasts_the_outer() -> None:
    with deadline(5), deadline(1000):
        left = shortened(None)
        assert left is not None
        assert left <= 5
        assert shortened(0.5) == 0.5
        with deadline(None):
            assert shortened(None) is None
    assert shortened(7) == 7


async def test_socket_and_its_new_folder_are_private(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.sock"
    async with RpcServer(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def test_server_takes_over_a_socket_left_by_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    async with RpcServer(f"unix:{path}") as first, RpcServer(first.address) as second:
        assert second.address == first.address


_PEER = """
import asyncio, sys
from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.rpc import RpcServer

class Stage(stage_pb2_grpc.StageServiceServicer):
    async def Generate(self, request, context):
        yield stage_pb2.GenerateResponse()
        await asyncio.Event().wait()

async def main():
    server = RpcServer("127.0.0.1:0")
    server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, Stage())
    print(await server.start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_peer_is_unavailable_at_once() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PEER, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        address = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        async with RpcChannel(address) as peer:
            stub: Any = stage_pb2_grpc.StageServiceStub(peer.channel)
            call = stub.Generate(stage_pb2.GenerateRequest())
            assert await call.read() == stage_pb2.GenerateResponse()
            process.send_signal(signal.SIGKILL)
            await process.wait()
            # Far below keepalive's 15 s: the kernel closes the connection.
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable), translated():
                    await call.read()
                with pytest.raises(Unavailable), translated():
                    await stub.GetEngine(stage_pb2.GetEngineRequest())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
