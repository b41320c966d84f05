"""A GGUF file is served as a folder is: imported, dequantised, split, and it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from openai import AsyncOpenAI

from bench.peers import gguf_files
from tests.e2e.fleet import MODELS, Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

FOLDER = MODELS / "heavyweight"
NAME = "heavyweight-q8_0"


def add_vocabulary(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The demo model's own words and template, as llama.cpp's converter writes them."""
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text())
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        is_control = added["special"]
        types[added["id"]] = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
    ids = range(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens[token_id] for token_id in ids])
    writer.add_token_types([int(types[token_id]) for token_id in ids])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((FOLDER / "chat_template.jinja").read_text())


@pytest.fixture(scope="module")
def gguf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the file."""
    folder = tmp_path_factory.mktemp("gguf")
    gguf_files.write(FOLDER, "Q8_0", folder / f"{NAME}.gguf", add_vocabulary)
    return folder


@pytest.fixture(params=["file", "folder"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, gguf_dir: Path) -> Iterator[Fleet]:
    """One worker with the file, or two that share the layers of the file in a folder."""
    is_folder = request.param == "folder"
    model = gguf_dir if is_folder else gguf_dir / f"{NAME}.gguf"
    with fleet_up(tmp_path, models=[model], workers=1 + is_folder, split=is_folder) as fleet:
        yield fleet


async def test_a_gguf_file_answers(fleet: Fleet, client: AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == [NAME]
    reply = await client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=32,
    )
    assert reply.choices[0].message.content == "The capital of France is Paris."
    assert reply.choices[0].finish_reason == "stop"
