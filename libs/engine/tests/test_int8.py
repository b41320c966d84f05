"""Stages in int8: rows know no neighbours, splits agree, quality holds, loading stays small."""

import math
import shutil
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from shoal_engine.errors import UnsupportedDevice, UntrustedCheckpoint
from shoal_engine.loading import (
    INT8_PARAMETERS_MIN,
    StageOptions,
    choose_quantization,
    load_stage,
)
from shoal_engine.quantise import packed_bytes
from shoal_engine.shape import LayerRange, read_shape, tensors_needed
from shoal_engine.stage import Row, StageBatch
from shoal_engine.testing import ARCHITECTURES, LAYER_COUNT, Chain, make_checkpoint, prompt_of

MODELS = Path(__file__).resolve().parents[3] / "models"
# The recipe is run from its folder and not installed.
sys.path.insert(0, str(MODELS))

from recipe.corpus import benchmark  # noqa: E402
from recipe.tables import load_tables  # noqa: E402
from recipe.tokenizer import ChatEncoder  # noqa: E402

CheckpointMaker = Callable[..., Path]
INT8 = StageOptions(kv_blocks=64, quantization="int8")
CPU = torch.device("cpu")
TOKENS_MAX = 40


def step_of(chain: Chain, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of one step that runs whole prompts; their KV is given back."""
    kvs = [chain.attach(len(prompt)) for prompt in prompts]
    logits = chain.step([(kv, 0, prompt) for kv, prompt in zip(kvs, prompts, strict=True)])
    for kv in kvs:
        for stage, part in zip(chain.stages, kv, strict=True):
            stage.pool.release(part.blocks)
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neighbours_and_threads_change_no_bit(
    checkpoint: CheckpointMaker, architecture: str
) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=False, intermediate_size=50)
    chain = Chain(folder, (0, LAYER_COUNT), INT8)
    prompts = [prompt_of(length, seed=length) for length in (1, 9, 2, 30)]
    expected = [step_of(chain, [prompt])[0] for prompt in prompts]
    for threads in (1, 3):
        torch.set_num_threads(threads)
        together = step_of(chain, prompts)
        for row, alone in enumerate(expected):
            assert torch.equal(together[row], alone), (threads, row)
            assert torch.equal(step_of(chain, [prompts[row]])[0], alone), (threads, row)


def test_decode_steps_are_bitwise_the_same_beside_a_broken_row(
    checkpoint: CheckpointMaker,
) -> None:
    stage = load_stage(checkpoint(), LayerRange(1, LAYER_COUNT), INT8)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = stage.forward(StageBatch([Row(stage.pool.sequence(1), 0, 1)], hidden=hidden[:1]))
    hidden[1], hidden[2] = float("nan"), 1e30
    rows = [Row(stage.pool.sequence(1), 0, 1) for _ in range(3)]
    together = stage.forward(StageBatch(rows, hidden=hidden))
    assert expected.logits is not None
    assert together.logits is not None
    assert torch.equal(together.logits[0], expected.logits[0])
    assert not torch.isfinite(together.logits[1]).any()


@pytest.mark.parametrize(
    ("architecture", "tie"),
    [*((name, False) for name in ARCHITECTURES), ("Gemma2ForCausalLM", True)],
)
def test_splits_are_bitwise_the_whole(
    checkpoint: CheckpointMaker, architecture: str, tie: bool
) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=tie)
    prompts = [prompt_of(23), prompt_of(5, seed=1)]
    whole, split = Chain(folder, (0, 4), INT8), Chain(folder, (0, 2, 3, 4), INT8)
    assert torch.equal(step_of(split, prompts), step_of(whole, prompts))
    assert split.greedy(prompts[0], 8) == whole.greedy(prompts[0], 8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_near_those_in_float(checkpoint: CheckpointMaker, architecture: str) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=False, initializer_range=0.1)
    prompts = [prompt_of(20, seed=seed) for seed in range(4)]
    exact = step_of(Chain(folder, (0, 4), StageOptions(kv_blocks=64)), prompts)
    error = (step_of(Chain(folder, (0, 4), INT8), prompts) - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.05


@dataclass(frozen=True)
class Chats:
    """Held-out chats, and what the heavyweight demo model says of each token in float32.

    following, is_said, is_token: (chats, TOKENS_MAX): the token that follows, whether the model
    was trained to say it, and whether there is a token at all. logits: (chats, TOKENS_MAX, V).
    """

    token_ids: list[tuple[int, ...]]
    following: torch.Tensor
    is_said: torch.Tensor
    is_token: torch.Tensor
    logits: torch.Tensor


@pytest.fixture(scope="module")
def chats() -> Chats:
    torch.set_num_threads(1)
    tables = load_tables()
    tokenizer = Tokenizer.from_file(str(MODELS / "heavyweight" / "tokenizer.json"))
    encoder = ChatEncoder(tokenizer, tables.tools)
    encoded = [encoder.encode(item.exchange) for item in benchmark(1, tables, 30, 30)]
    short = [chat for chat in encoded if len(chat.token_ids) <= TOKENS_MAX]
    size = (len(short), TOKENS_MAX)
    following = torch.zeros(size, dtype=torch.int64)
    is_said, is_token = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    for index, chat in enumerate(short):
        last = len(chat.token_ids) - 1
        following[index, :last] = torch.tensor(chat.token_ids[1:])
        is_said[index, :last] = torch.tensor(chat.is_target[1:])
        is_token[index, : last + 1] = True
    token_ids = [chat.token_ids for chat in short]
    logits = token_logits(MODELS / "heavyweight", token_ids, "none")
    return Chats(token_ids, following, is_said, is_token, logits)


def token_logits(folder: Path, chats: Sequence[Sequence[int]], quantization: str) -> torch.Tensor:
    """Logits (chats, TOKENS_MAX, V) of every token, all chats decoding side by side."""
    shape = read_shape(folder)
    options = StageOptions(kv_blocks=len(chats) * (TOKENS_MAX // 16 + 1), quantization=quantization)
    chain = Chain(folder, (0, shape.layer_count), options)
    kvs = [chain.attach(len(chat)) for chat in chats]
    logits = torch.zeros(len(chats), TOKENS_MAX, shape.vocab_size)
    for position in range(max(map(len, chats))):
        live = [index for index, chat in enumerate(chats) if position < len(chat)]
        rows = [(kvs[index], position, chats[index][position : position + 1]) for index in live]
        logits[live, position] = chain.step(rows)
    return logits


def agreement(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left.argmax(-1) == right.argmax(-1)).float().mean())


def test_demo_model_keeps_its_quality(chats: Chats) -> None:
    """What it was trained to say: of the users' words it knows nothing."""
    said = chats.following[chats.is_said]
    assert len(said) > 300
    exact = chats.logits[chats.is_said]
    int8 = token_logits(MODELS / "heavyweight", chats.token_ids, "int8")[chats.is_said]
    assert not torch.equal(exact, int8)
    ratio = math.exp(float(F.cross_entropy(int8, said) - F.cross_entropy(exact, said)))
    assert 0.99 < ratio < 1.01
    assert agreement(int8, exact) >= 0.98


def plant(tensors: dict[str, torch.Tensor], layer_count: int) -> None:
    """Four channels 50 times the size before every group of linear layers; same function.

    Behind both norms, between `up` and `down`, and between values and the output projection, where
    query heads that share a KV head share the channel.
    """
    generator = torch.Generator().manual_seed(5)

    def chosen(width: int) -> torch.Tensor:
        return torch.randperm(width, generator=generator)[:4]

    for layer in range(layer_count):
        prefix = f"model.layers.{layer}"
        attention = {name: tensors[f"{prefix}.self_attn.{name}_proj.weight"] for name in "qkvo"}
        gate, up, down = (
            tensors[f"{prefix}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        for norm, readers in (
            ("input_layernorm", [attention[name] for name in "qkv"]),
            ("post_attention_layernorm", [gate, up]),
        ):
            channels = chosen(up.shape[1])
            tensors[f"{prefix}.{norm}.weight"][channels] *= 50
            for reader in readers:
                reader[:, channels] /= 50
        channels = chosen(up.shape[0])
        up[channels] *= 50
        down[:, channels] /= 50
        values = attention["v"].view(2, 64, -1)
        outputs = attention["o"].view(-1, 2, 2, 64)
        channels = chosen(64)
        values[1, channels] *= 50
        outputs[:, 1, :, channels] /= 50


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heavyweight demo model with planted outlier channels, in float32."""
    folder = tmp_path_factory.mktemp("planted") / "heavyweight"
    shutil.copytree(MODELS / "heavyweight", folder)
    tensors = {
        name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    plant(tensors, read_shape(folder).layer_count)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_planting_changes_no_result(planted: Path) -> None:
    prompts = [prompt_of(20, seed=seed, vocab_size=1536) for seed in range(3)]
    options = StageOptions(kv_blocks=8)
    expected = step_of(Chain(MODELS / "heavyweight", (0, 6), options), prompts)
    found = step_of(Chain(planted, (0, 6), options), prompts)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_planted_outlier_channels_cost_no_quality(planted: Path, chats: Chats) -> None:
    int8 = token_logits(planted, chats.token_ids, "int8")
    assert agreement(int8[chats.is_token], chats.logits[chats.is_token]) >= 0.95


def test_planted_channels_would_cost_quality_unless_smoothed(
    planted: Path, chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_engine.smoothing._EXPONENT_MAX", 0)
    int8 = token_logits(planted, chats.token_ids, "int8")
    assert agreement(int8[chats.is_token], chats.logits[chats.is_token]) < 0.9


def test_demo_model_splits_are_bitwise_the_whole() -> None:
    folder = MODELS / "heavyweight"
    prompt = prompt_of(30, vocab_size=1536)
    whole = Chain(folder, (0, 6), INT8)
    expected, tokens = step_of(whole, [prompt]), whole.greedy(prompt, 24)
    for cuts in ((0, 3, 6), (0, 2, 4, 6)):
        chain = Chain(folder, cuts, INT8)
        assert torch.equal(step_of(chain, [prompt]), expected), cuts
        assert chain.greedy(prompt, 24) == tokens, cuts


class CountingSource:
    """Tensors in memory, copied out; knows how many bytes of copies are alive."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.reads: list[str] = []
        self.alive_bytes = 0
        self.alive_bytes_max = 0

    def names(self) -> list[str]:
        return list(self.tensors)

    def read(self, name: str) -> torch.Tensor:
        self.reads.append(name)
        copy = self.tensors[name].clone()
        self.alive_bytes += copy.nbytes
        self.alive_bytes_max = max(self.alive_bytes_max, self.alive_bytes)
        weakref.finalize(copy, self._gone, copy.nbytes)
        return copy

    def _gone(self, size_bytes: int) -> None:
        self.alive_bytes -= size_bytes


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("cuts", [(0, 4), (1, 3), (2, 4)], ids=str)
def test_loading_holds_one_block_and_reads_each_tensor_once(
    tmp_path: Path, cuts: tuple[int, int], tie: bool
) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", tie_word_embeddings=tie, vocab_size=999)
    stored = {
        name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    source = CountingSource(stored)
    layers = LayerRange(*cuts)
    stage = load_stage(folder, layers, INT8, source)
    needed = tensors_needed(list(stored), read_shape(folder), layers)
    assert sorted(source.reads) == sorted(needed)
    sizes = {name: tensor.nbytes for name, tensor in stored.items()}
    mlp = sum(size for name, size in sizes.items() if "layers.1.mlp" in name)
    embedding = sizes["model.embed_tokens.weight"]
    kept = embedding if layers.is_first else 0
    head = 0 if tie and layers.is_first else embedding if layers.is_last(4) else 0
    assert source.alive_bytes == 0  # Parameters share memory, not objects.
    norm = sizes["model.norm.weight"]
    assert source.alive_bytes_max <= kept + max(mlp, head) + norm
    assert stage.quantization == "int8"


def test_weight_bytes_counts_packed_weights_and_the_stored_embedding(
    checkpoint: CheckpointMaker,
) -> None:
    folder = checkpoint(tie_word_embeddings=True)
    stored = {
        name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    stage = load_stage(folder, LayerRange(0, 4), INT8, CountingSource(stored))
    linears = {name: tensor for name, tensor in stored.items() if "proj" in name}
    packed = sum(packed_bytes(*tensor.shape) for tensor in linears.values())
    norms = sum(2 * tensor.nbytes for name, tensor in stored.items() if "norm" in name)
    embedding = stored["model.embed_tokens.weight"]
    head = packed_bytes(*embedding.shape)
    assert stage.weight_bytes == packed + norms + embedding.nbytes + head


def test_misshapen_tensor_is_refused(checkpoint: CheckpointMaker) -> None:
    folder = checkpoint(tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        source = CountingSource(tensors | {name: torch.ones(3, 5)})
        with pytest.raises(UntrustedCheckpoint, match=rf"{name} is \(3, 5\)"):
            load_stage(folder, LayerRange(0, 4), INT8, source)


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "parameter_count", "chosen"),
    [
        ("auto", "cpu", torch.float32, INT8_PARAMETERS_MIN + 1, "int8"),
        ("auto", "cpu", torch.float32, INT8_PARAMETERS_MIN, "none"),
        ("auto", "cpu", torch.bfloat16, INT8_PARAMETERS_MIN + 1, "none"),
        ("auto", "cuda", torch.bfloat16, INT8_PARAMETERS_MIN + 1, "none"),
        ("none", "cpu", torch.float32, INT8_PARAMETERS_MIN + 1, "none"),
        ("int8", "cpu", torch.float32, 1, "int8"),
    ],
)
def test_quantization_follows_setting_device_and_size(
    asked: str, device: str, dtype: torch.dtype, parameter_count: int, chosen: str
) -> None:
    options = StageOptions(quantization=asked)
    assert choose_quantization(options, torch.device(device), dtype, parameter_count) == chosen


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "message"),
    [
        ("int8", "cuda", torch.float16, "on a CPU only, not on cuda"),
        ("int8", "cpu", torch.bfloat16, "beside float32"),
        ("int4", "cpu", torch.float32, "use auto, none, int8"),
    ],
)
def test_unusable_quantization_is_refused(
    asked: str, device: str, dtype: torch.dtype, message: str
) -> None:
    options = StageOptions(quantization=asked)
    with pytest.raises(UnsupportedDevice, match=message):
        choose_quantization(options, torch.device(device), dtype, 1)


def test_without_the_kernel_auto_stays_in_float_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shoal_engine.loading.kernel_is_exact", lambda: False)
    large = INT8_PARAMETERS_MIN + 1
    assert choose_quantization(StageOptions(), CPU, torch.float32, large) == "none"
    assert "int8 not usable" in caplog.text
    with pytest.raises(UnsupportedDevice, match="no exact int8 kernel"):
        choose_quantization(StageOptions(quantization="int8"), CPU, torch.float32, large)
