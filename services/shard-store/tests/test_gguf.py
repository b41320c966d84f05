"""GGUF files written by the format's own library, read by ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.errors import ShoalError
from shoal_shard_store.gguf_header import BLOCK_SIZES, HeaderCut, parse_gguf
from shoal_shard_store.gguf_model import llama3_factors
from shoal_shard_store.gguf_tokenizer import tokenizer_files
from shoal_shard_store.testing import FakeHub, serving_hub

from .stores import Store, store_of

WIDTH, HEADS, KV_HEADS, LAYERS, VOCABULARY = 64, 4, 2, 2, 300
BYTES = [chr(c) if 33 <= c <= 126 else chr(256 + c) for c in range(256)]


def byte_tokens() -> list[str]:
    """The 256 letters of byte-level BPE, as GPT-2 spells them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


Change = Callable[[gguf.GGUFWriter], None]


def write_gguf(
    path: Path, architecture: str = "llama", change: Change | None = None, is_tied: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """A model of a few kilobytes; its tensors as they were stored, by GGUF name."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500000.0)
    tokens = [*byte_tokens(), "he", "ll", "hell", "<|end|>", "<tool>"]
    tokens += [f"<unused{i}>" for i in range(VOCABULARY - len(tokens))]
    types = [1] * 259 + [3, 4] + [5] * (VOCABULARY - 261)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_eos_token_id(259)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")
    if change is not None:
        change(writer)
    random = np.random.default_rng(7)
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    if not is_tied:
        shapes["output.weight"] = (VOCABULARY, WIDTH)
    kv = WIDTH * KV_HEADS // HEADS
    for layer in range(LAYERS):
        rows = {"attn_q": WIDTH, "attn_k": kv, "attn_v": kv, "attn_output": WIDTH}
        rows |= {"ffn_gate": 96, "ffn_up": 96}
        shapes |= {f"blk.{layer}.{name}.weight": (size, WIDTH) for name, size in rows.items()}
        shapes[f"blk.{layer}.ffn_down.weight"] = (WIDTH, 96)
        shapes |= {f"blk.{layer}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        if architecture == "qwen3":
            norms = ("attn_q_norm", "attn_k_norm")
            shapes |= {f"blk.{layer}.{name}.weight": (WIDTH // HEADS,) for name in norms}
        if architecture == "qwen2":
            shapes |= {f"blk.{layer}.{name}.bias": (kv,) for name in ("attn_k", "attn_v")}
            shapes[f"blk.{layer}.attn_q.bias"] = (WIDTH,)
    stored = {}
    for name, shape in shapes.items():
        data = random.standard_normal(shape, dtype=np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        stored[name] = data
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def tensors_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        tensor["name"]: {**tensor, "shard": segment["shard"]}
        for group in document["groups"]
        for segment in group["segments"]
        for tensor in segment["tensors"]
    }


async def file_of(store: Store, name: str, model: str = "small") -> bytes:
    ref = (await store.manifest(model))["files"][name]
    return await store.read(ref["digest"])


def test_block_sizes_are_those_of_the_format() -> None:
    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: known[kind] for kind in BLOCK_SIZES} == BLOCK_SIZES


async def test_a_file_is_imported_with_its_blocks_as_they_are(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "small.gguf")
    async with store_of(tmp_path / "data", import_roots=(tmp_path,)) as store:
        request = pb.ImportModelRequest(request_id="r", path=str(tmp_path / "small.gguf"))
        steps = [step async for step in store.stub.ImportModel(request, timeout=20)]
        assert steps[-1].is_complete
        assert steps[-1].model == "small"
        assert (await store.models())["small"].is_complete
        document = await store.manifest("small")
        tensors = tensors_of(document)
        query = tensors["model.layers.1.self_attn.q_proj.weight"]
        key = tensors["model.layers.1.self_attn.k_proj.weight"]
        assert (query["dtype"], query["shape"], query["permuted_heads"]) == (
            "GGUF:Q8_0",
            [64, 64],
            4,
        )
        assert (key["shape"], key["permuted_heads"]) == ([32, 64], 2)
        value = tensors["model.layers.1.self_attn.v_proj.weight"]
        assert "permuted_heads" not in value
        assert tensors["model.norm.weight"]["dtype"] == "GGUF:F32"
        shard = await store.read(document["shards"][value["shard"]]["digest"])
        found = shard[value["offset_bytes"] :][: value["size_bytes"]]
        assert found == stored["blk.1.attn_v.weight"].tobytes()
        config = json.loads(await file_of(store, "config.json"))
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert (config["vocab_size"], config["rope_theta"]) == (VOCABULARY, 500000.0)
        assert (config["num_key_value_heads"], config["head_dim"]) == (2, 16)
        assert (document["width"], document["kv_width"]) == (64, 64)
        assert json.loads(await file_of(store, "generation_config.json")) == {"eos_token_id": 259}
        assert await file_of(store, "chat_template.jinja") == b"{{ messages }}"
        tokenizer = Tokenizer.from_str((await file_of(store, "tokenizer.json")).decode())
        ids = tokenizer.encode("hell<|end|><tool>").ids
        assert ids == [258, 259, 260]
        assert tokenizer.decode(ids) == "hell<tool>"


async def test_layers_of_a_file_on_a_hub_come_by_ranges(tmp_path: Path) -> None:
    write_gguf(tmp_path / "q8.gguf")
    data = (tmp_path / "q8.gguf").read_bytes()
    hub = FakeHub({"q8.gguf": data, "README.md": b"", "other.gguf": data})
    async with serving_hub(hub), store_of(tmp_path / "data", hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match=r"choose one of its files: other\.gguf, q8\.gguf"):
            await store.acquire()
        done = await store.acquire(file="q8.gguf", layers=(1, 2))
        held = (await store.models())["q8"]
        assert [(span.layer_start, span.layer_stop) for span in held.layers_held] == [(1, 2)]
        assert held.holds_head
        header, *ranges = [seen for seen in hub.seen if seen.path == "/blob/q8.gguf"]
        assert header.stop == 64 << 10
        assert sum(seen.stop - seen.start for seen in ranges) == done.bytes_total < len(data) / 2
        # The rest comes from where the first part came from, by the model's name alone.
        await store.acquire("", model="q8")
        assert (await store.models())["q8"].is_complete


async def test_a_long_header_is_read_by_doubling_ranges(tmp_path: Path) -> None:
    def long(writer: gguf.GGUFWriter) -> None:
        writer.add_array("padding.words", ["word" * 100] * 2000)

    write_gguf(tmp_path / "q8.gguf", change=long)
    hub = FakeHub({"q8.gguf": (tmp_path / "q8.gguf").read_bytes()})
    async with serving_hub(hub), store_of(tmp_path / "data", hub_endpoint=hub.url) as store:
        await store.acquire(layers=(0, 1))
    ends = [seen.stop >> 10 for seen in hub.seen if seen.path.startswith("/blob/")]
    assert ends[:4] == [64, 128, 256, 512]


@pytest.mark.parametrize(
    ("architecture", "expected", "name"),
    [
        ("qwen2", "Qwen2ForCausalLM", "model.layers.0.self_attn.q_proj.bias"),
        ("qwen3", "Qwen3ForCausalLM", "model.layers.0.self_attn.q_norm.weight"),
    ],
)
async def test_families_keep_their_names(
    tmp_path: Path, architecture: str, expected: str, name: str
) -> None:
    write_gguf(tmp_path / "small.gguf", architecture, is_tied=True)
    async with store_of(tmp_path / "data", import_roots=(tmp_path,)) as store:
        await store.acquire("", file=str(tmp_path / "small.gguf"))
        document = await store.manifest("small")
        assert document["architecture"] == expected
        assert document["tie_embeddings"]
        assert name in tensors_of(document)
        assert not any("permuted_heads" in each for each in tensors_of(document).values())


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("gptj", None, "its architecture is 'gptj'; known are llama, qwen2, qwen3"),
        ("llama", lambda w: w.add_expert_count(8), "mixture of experts"),
        ("llama", lambda w: w.add_uint16("split.count", 3), "one part of several"),
        ("llama", lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "rope scaling"),
        ("llama", lambda w: w.add_tensor("blk.0.odd.weight", np.zeros(4, np.float32)), "blk.0.odd"),
    ],
)
async def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, architecture: str, change: Change | None, message: str
) -> None:
    write_gguf(tmp_path / "small.gguf", architecture, change)
    async with store_of(tmp_path / "data", import_roots=(tmp_path,)) as store:
        with pytest.raises(ShoalError, match=message):
            await store.acquire("", file=str(tmp_path / "small.gguf"))
        assert not await store.models()


async def test_a_llama3_keeps_its_stretched_context(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    factors = np.array(llama3_factors(scaling, 500000.0, 16), np.float32)

    def stretched(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    write_gguf(tmp_path / "small.gguf", change=stretched)
    async with store_of(tmp_path / "data", import_roots=(tmp_path,)) as store:
        await store.acquire("", file=str(tmp_path / "small.gguf"))
        config = json.loads(await file_of(store, "config.json"))
        assert config["rope_scaling"] == {"rope_type": "llama3", **scaling}
        assert "rope_freqs.weight" not in tensors_of(await store.manifest("small"))


async def test_a_file_behind_a_link_or_a_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    write_gguf(tmp_path / "small.gguf")
    (tmp_path / "root" / "link.gguf").symlink_to(tmp_path / "small.gguf")
    async with store_of(tmp_path / "data", import_roots=(tmp_path / "root",)) as store:
        for name in ("small.gguf", "root/link.gguf", "root/../small.gguf", "root/none.gguf"):
            with pytest.raises(ShoalError, match=r"may not be imported|no plain file"):
                await store.acquire("", file=str(tmp_path / name))


def test_a_header_that_is_cut_or_damaged_is_never_believed(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    data = (tmp_path / "small.gguf").read_bytes()
    header_size = len(data) - sum(
        t.n_bytes for t in gguf.GGUFReader(tmp_path / "small.gguf").tensors
    )
    for size in range(0, header_size - 4096, 997):
        with pytest.raises(HeaderCut):
            parse_gguf(data[:size], "x.gguf", len(data))
    random = np.random.default_rng(11)
    for _ in range(300):
        damaged = bytearray(data[:8192])
        damaged[int(random.integers(0, 600))] ^= 1 << int(random.integers(0, 8))
        try:
            header = parse_gguf(bytes(damaged) + data[8192:], "x.gguf", len(data))
        except (HeaderCut, ShoalError):
            continue
        ends = [tensor.offset_bytes + tensor.size_bytes for tensor in header.tensors]
        assert max(ends, default=0) <= len(data)


def test_a_sentence_piece_vocabulary_merges_by_score() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *[6] * 256]
    pieces = {"▁": -1e9, "a": -1e9, "b": -1e9, "ab": -1.0, "▁ab": -2.0, "abb": -3.0, "ba": -0.5}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, *pieces],
        "tokenizer.ggml.token_type": [*types, *[1] * len(pieces)],
        "tokenizer.ggml.scores": [*[0.0] * len(tokens), *pieces.values()],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    files = tokenizer_files(metadata, "x.gguf")
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("ab").tokens == ["<s>", "▁ab"]
    # "ba" has the best score, so it is joined first.
    assert tokenizer.encode("aba").tokens == ["<s>", "▁", "a", "ba"]
    assert tokenizer.encode("é").tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("ab é").ids) == "ab é"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, "of the kind 't5'"),
        ({"tokenizer.ggml.pre": "nobody-knows"}, "unknown way 'nobody-knows'"),
        ({"tokenizer.ggml.merges": ["a zz"]}, "tokens that it does not have"),
        ({"tokenizer.ggml.tokens": []}, "no vocabulary|does not have"),
    ],
)
def test_vocabularies_that_are_not_understood_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    with pytest.raises(ShoalError, match=message):
        tokenizer_files(metadata | changes, "x.gguf")
