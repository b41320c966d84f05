"""Model folders that strangers made: refused at the door, or kept from harming the others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import psutil
import pytest
from openai import AsyncOpenAI

from tests.e2e.fleet import MODELS, READY_LINE, Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
QUESTION = "What is the capital of France?"


def copy_of(model: str, folder: Path) -> Path:
    shutil.copytree(MODELS / model, folder)
    return folder


def make_pickle(folder: Path) -> None:
    """The weights as a pickle that would leave a mark if anything loaded it."""
    (folder / "model.safetensors").unlink()
    mark = f"cposix\nsystem\n(Vtouch {folder}/executed\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(mark)


def make_link(folder: Path) -> None:
    """A tokenizer that is somebody else's file."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(MODELS / "drafter" / "tokenizer.json")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [(make_pickle, "pytorch_model.bin"), (make_link, "tokenizer.json")],
    ids=["pickle", "symbolic link"],
)
def test_a_folder_that_is_not_plain_data_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    folder = copy_of("drafter", tmp_path / "stranger")
    spoil(folder)
    before = {process.pid for process in psutil.process_iter()}
    fleet = Fleet(tmp_path / "data", models=[folder], workers=1, split=False)
    try:
        assert fleet.process.wait(60) not in (0, None), fleet.log()
    finally:
        fleet.stop()
    assert complaint in fleet.log()
    assert "Traceback" not in fleet.log()
    assert not any(READY_LINE in line for line in fleet.lines)
    assert not (folder / "executed").exists()
    assert leftovers(tmp_path, before) == []


def leftovers(data: Path, before: set[int]) -> list[str]:
    """New processes that mention the fleet's folder."""
    found = []
    for process in psutil.process_iter():
        if process.pid not in before:
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            found += [line] if str(data) in line else []
    return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One honest model, and one whose template never ends."""
    folder = copy_of("drafter", tmp_path_factory.mktemp("models") / "looper")
    (folder / "chat_template.jinja").write_text(LOOP)
    with fleet_up(tmp_path_factory.mktemp("fleet"), models=["drafter", folder]) as fleet:
        yield fleet


async def ask(client: AsyncOpenAI, model: str) -> str:
    reply = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=8
    )
    return reply.choices[0].message.content or ""


@pytest.mark.slow
async def test_a_template_that_never_ends_fails_its_request_and_no_other(
    client: AsyncOpenAI,
) -> None:
    """More of them at once than there are processes to render templates."""
    expected = await ask(client, "drafter")
    async with asyncio.timeout(30):
        *failures, reply = await asyncio.gather(
            *(ask(client, "looper") for _ in range(3)),
            ask(client, "drafter"),
            return_exceptions=True,
        )
    assert reply == expected
    for failure in failures:
        assert isinstance(failure, openai.APIStatusError), failure
        assert 400 <= failure.status_code < 600
        assert isinstance(failure.body, dict)
        assert "template" in failure.body["message"]
        assert {"message", "type", "param", "code"} <= set(failure.body)
    assert await ask(client, "drafter") == expected
