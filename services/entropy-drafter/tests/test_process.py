"""The service as a process of its own: its start, its end, its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.drafter.v1 import drafter_pb2 as pb
from shoal.drafter.v1 import drafter_pb2_grpc
from shoal_common.rpc import RpcChannel
from shoal_common.testing.waiting import eventually

from .chat_upstream import KEY, ChatUpstream, chat_upstream, chunk, entry, told
from .fleet_fakes import side_page, task_of

SECRET = "the owl flies at midnight"
TOKEN = "fleet-token-0123456789"


@pytest.fixture
async def upstream() -> AsyncIterator[ChatUpstream]:
    async with chat_upstream() as fake:
        yield fake


@contextmanager
def process(folder: Path, **options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program with its log in `folder`; killed at the end if it still runs."""
    named = {f"SHOAL_ENTROPY_DRAFTER_{name.upper()}": value for name, value in options.items()}
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    fleet = {"SHOAL_DATA_DIR": str(folder), "SHOAL_FLEET_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "shoal_entropy_drafter", "--ready-file", str(folder / "ready")],
            env=kept | fleet | named | {"SHOAL_LOG_FORMAT": "json", "SHOAL_LOG_LEVEL": "debug"},
            stderr=log,
            cwd=folder,
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


async def addresses(folder: Path) -> dict[str, Any]:
    path = folder / "ready"
    await eventually(path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def upstream_options(upstream: ChatUpstream) -> dict[str, str]:
    return {
        "drafter_provider": "openai",
        "drafter_base_url": upstream.url,
        "drafter_api_key": KEY,
        "drafter_model": "small",
        "threshold_bits": "1.0",
        "top_logprobs": "5",
    }


async def test_sigterm_lets_a_draft_end_and_the_log_holds_no_secrets(
    upstream: ChatUpstream, tmp_path: Path
) -> None:
    with process(tmp_path, **upstream_options(upstream), drain_timeout_s="20") as running:
        ready = await addresses(tmp_path)
        assert ready["pid"] == running.pid
        page = await side_page(ready["side"], "/readyz")
        assert page.startswith("HTTP/1.1 200")
        words = ["mid", "night", " it", " is"]
        upstream.script, upstream.hold_at = [*told(*words)], 3
        upstream.script.insert(4, chunk("?", [entry("?", [])]))
        async with RpcChannel(ready["grpc"], token=TOKEN) as channel:
            stub = drafter_pb2_grpc.DrafterServiceStub(channel.channel)
            call = stub.Answer(pb.AnswerRequest(request_id="q1", task=task_of(SECRET)))
            await call.read()
            await upstream.is_holding.wait()
            running.send_signal(signal.SIGTERM)
            await eventually(lambda: b"entropy-drafter stopping" in log_of(tmp_path))
            upstream.released.set()
            events = []
            while isinstance(event := await call.read(), pb.AnswerResponse):
                events.append(event)
        assert events[-1].HasField("judgement")
        await eventually(lambda: running.poll() is not None)
        assert running.returncode == 0
    log = log_of(tmp_path)
    assert b"draft ended" in log
    for secret in (SECRET, KEY, TOKEN, "night"):
        assert secret.encode() not in log


def log_of(folder: Path) -> bytes:
    return (folder / "log").read_bytes()


async def test_wrong_settings_end_it_with_2_and_a_remedy(tmp_path: Path) -> None:
    with process(tmp_path, calibrated_for="another") as running:
        await eventually(lambda: running.poll() is not None)
        assert running.returncode == 2
    said = log_of(tmp_path).decode()
    assert "shoal-entropy-drafter: calibrated_for" in said
    assert "Traceback" not in said


def test_neither_torch_nor_an_unused_library_is_loaded() -> None:
    code = (
        "import sys, shoal_entropy_drafter.app\n"
        "heavy = {'torch', 'transformers', 'openai', 'qdrant_client', 'onnxruntime'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code]).strip() == b"[]"
