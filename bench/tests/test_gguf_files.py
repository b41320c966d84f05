"""The files are right if llama.cpp answers from them as the checkpoint does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.streams import HttpClient
from tests.e2e.driving import SUITE, prompt_ids

pytest.importorskip("xllamacpp")
gguf_files = pytest.importorskip("bench.peers.gguf_files")

MODEL = Path(__file__).resolve().parents[2] / "models" / "heavyweight"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
async def test_llama_cpp_gives_the_checkpoints_greedy_tokens(kind: str, tmp_path: Path) -> None:
    from bench.peers.llama_server import LlamaServer

    prompt = SUITE["prompts"][0]
    expected = prompt["greedy"]["heavyweight"]
    path = gguf_files.ensure(MODEL, kind, tmp_path)
    ids = prompt_ids(MODEL, prompt)
    count = expected.index(2)
    with LlamaServer(path, streams=1, context=512) as server:
        async with HttpClient(server.url) as client:
            reply = await client.post(
                "/completion",
                {"prompt": ids, "n_predict": count, "temperature": 0, "return_tokens": True},
            )
    assert reply["tokens"] == expected[:count]


def test_names_of_tensors() -> None:
    assert gguf_files.gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    assert gguf_files.gguf_name("lm_head.weight") == "output.weight"
    assert gguf_files.gguf_name("model.layers.11.mlp.up_proj.weight") == "blk.11.ffn_up.weight"
    assert gguf_files.gguf_name("model.layers.0.self_attn.q_proj.weight") == "blk.0.attn_q.weight"


def test_halves_of_a_head_become_neighbours() -> None:
    config = {"num_attention_heads": 2, "num_key_value_heads": 1}
    rows = np.arange(8, dtype=np.float32)[:, None]
    queries = gguf_files.ordered("q_proj", rows, config)[:, 0].tolist()
    assert queries == [0, 2, 1, 3, 4, 6, 5, 7]
    keys = gguf_files.ordered("k_proj", rows, config)[:, 0].tolist()
    assert keys == [0, 4, 1, 5, 2, 6, 3, 7]
    assert gguf_files.ordered("v_proj", rows, config)[:, 0].tolist() == list(range(8))


def test_a_file_is_made_once(tmp_path: Path) -> None:
    first = gguf_files.ensure(MODEL, "Q8_0", tmp_path)
    made_at = first.stat().st_mtime_ns
    assert gguf_files.ensure(MODEL, "Q8_0", tmp_path) == first
    assert first.stat().st_mtime_ns == made_at
    assert [path.name for path in tmp_path.iterdir()] == ["heavyweight-Q8_0.gguf"]
