"""From a checkpoint folder to a `Stage`.

Owns reading tensors, building the model definition and giving it weights. Does not know who wants
the stage. A model is built whole without memory (meta device), cut to its layers, and only the
tensors that are left are read.
"""

import ctypes
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn

from shoal_engine.activations import steady
from shoal_engine.attention import ATTENTION_NAME, register_attention
from shoal_engine.blocks import BlockPool
from shoal_engine.cache_spec import cache_specs
from shoal_engine.errors import UnsupportedDevice, UnsupportedModel, UntrustedCheckpoint
from shoal_engine.filling import (
    NUMBER_FORMATS,
    Filler,
    TensorSource,
    planned_weight_bytes,
    weight_bytes,
)
from shoal_engine.kv_store import PagedKvStore
from shoal_engine.quantise import kernel_is_exact
from shoal_engine.shape import (
    EMBEDDING,
    HEAD,
    LayerRange,
    ModelShape,
    read_shape,
    tensors_needed,
)
from shoal_engine.stage import Stage, StageModel
from shoal_engine.trust import check_config_files, check_untrusted, weight_files

__all__ = [
    "FolderSource",
    "StageOptions",
    "StagePlan",
    "TensorSource",
    "check_untrusted",
    "load_stage",
    "plan_stage",
]

log = logging.getLogger(__name__)

QUANTIZATIONS = ("auto", "none", "int8")
INT8_PARAMETERS_MIN = 200_000_000
"""Above this many parameters of the whole model, auto means int8 on a CPU."""
_BUFFER_ELEMENTS_MAX = 1 << 16
# What the kernels take for themselves with the first step: code made at run time and buffers.
_KERNEL_BYTES = 16 << 20
# Entries that do not change what is computed, but could choose how code runs (attention, experts)
# or make building a model fail or swell (labels, padding, initial weights).
_CONFIG_KEYS_DROPPED = (
    "_attn_implementation",
    "attn_implementation",
    "experts_implementation",
    "id2label",
    "initializer_range",
    "label2id",
    "num_labels",
)


class FolderSource:
    """Tensors of a folder's safetensors files; reads only what is asked for.

    Raises UntrustedCheckpoint for folders that are not plain data, damaged files and files that
    the index names but that are not there.
    """

    def __init__(self, folder: Path) -> None:
        check_untrusted(folder)
        self._folder = folder
        files = weight_files(folder)
        self._files: dict[str, Path] = (
            files if isinstance(files, dict) else dict.fromkeys(_names_in(files), files)
        )

    def names(self) -> list[str]:
        """Names of all tensors, as the file's header or the index lists them."""
        return list(self._files)

    def read(self, name: str) -> torch.Tensor:
        """Copy one tensor out of its file.

        A copy, because mapped weights would sit at odd addresses (last bits may depend on
        alignment) and would fail with the file if somebody truncated it.
        """
        path = self._files[name]
        with _opened(path) as file:
            try:
                tensor: torch.Tensor = file.get_tensor(name)
            except SafetensorError as err:
                problem = f"no readable tensor {name[:200]}"
                raise UntrustedCheckpoint(path, problem, "download it again") from err
            return tensor.clone()


@dataclass(frozen=True)
class StageOptions:
    """How a stage runs on this machine."""

    device: str = "cpu"
    """A torch device: cpu, cuda, cuda:1."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is float32 on a CPU and half width on CUDA."""
    quantization: str = "auto"
    """none, int8 (on a CPU only), or auto: int8 on a CPU for models above 200 M parameters."""
    block_size_tokens: int = 16
    """Positions per KV block."""
    kv_blocks: int = 256
    """KV blocks of the stage's pool."""
    strict_exact: bool = False
    """Pad every step, so that last bits never depend on neighbours (see `padding`)."""
    threads: int = 0
    """Threads torch may use in this process; 0 leaves torch's own choice."""


def return_freed_memory() -> None:
    """Give the system back what loading has freed: glibc would keep up to a third of a model."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        log.debug("this C library keeps what is freed")


class StagePlan:
    """A stage that is described but takes no memory yet, with what it will take.

    weight_bytes: of the loaded weights. kv_block_bytes: of one KV block.
    """

    def __init__(
        self,
        folder: Path,
        layers: LayerRange,
        options: StageOptions,
        source: TensorSource,
    ) -> None:
        self.shape = read_shape(folder)
        self.layers = layers
        layers.check_within(self.shape.layer_count)
        self._options = options
        self._device, self._dtype = choose_device(options, self.shape)
        self._model = _build_on_meta(folder, self.shape)
        self.quantization = choose_quantization(
            options, self._device, self._dtype, self._model.num_parameters()
        )
        self._specs = cache_specs(
            getattr(self._model.config, "layer_types", None), self.shape, layers
        )
        self._wanted = _cut(self._model, self.shape, layers, source.names())
        self._filler = Filler(self._model, self._wanted, source, folder)
        self.weight_bytes = planned_weight_bytes(
            self._model,
            self._wanted,
            self._dtype,
            stored=NUMBER_FORMATS.get(self.shape.checkpoint_dtype, torch.float32),
            is_int8=self.quantization == "int8",
        )
        positions = options.block_size_tokens * self._dtype.itemsize
        self.kv_block_bytes = positions * sum(spec.elements_per_position for spec in self._specs)

    def step_bytes(self, token_count: int, logit_rows: int) -> int:
        """Temporary tensors of a step of so many tokens, `logit_rows` of which want logits."""
        shape = self.shape
        width = 6 * shape.hidden_size + 3 * int(self._model.config.intermediate_size)
        size = _KERNEL_BYTES + token_count * width * self._dtype.itemsize
        if self.layers.is_last(shape.layer_count):
            size += 2 * logit_rows * shape.vocab_size * torch.float32.itemsize
        return size

    def load(self, kv_blocks: int, threads: int = 0) -> Stage:
        """Read the weights, once. Raises UntrustedCheckpoint for damaged or misshapen tensors.

        threads: instead of those of the options, where a plan's size decides.
        """
        if threads or self._options.threads:
            torch.set_num_threads(threads or self._options.threads)
        _compute_buffers(self._model, self._device)
        if self.quantization == "int8":
            self._filler.fill_int8(self.layers, self.shape)
        else:
            self._filler.fill(self._dtype, self._device)
        if self._device.type == "cpu":
            steady(self._model)
        return_freed_memory()
        size = self._options.block_size_tokens
        store = PagedKvStore(self._specs, kv_blocks, size, self._dtype, self._device)
        parts = _as_stage_model(
            self._model, self.layers, self.shape, self._dtype, self._device, self.quantization
        )
        pool = BlockPool(kv_blocks, size)
        stage = Stage(parts, self.shape, self.layers, pool, store, self._options.strict_exact)
        log.info(
            "stage loaded",
            extra={
                "layers": str(self.layers),
                "dtype": str(self._dtype),
                "quantization": self.quantization,
                "weight_bytes": stage.weight_bytes,
            },
        )
        return stage


def plan_stage(
    folder: Path,
    layers: LayerRange,
    options: StageOptions,
    source: TensorSource | None = None,
) -> StagePlan:
    """Describe the stage that runs `layers` of the checkpoint in `folder`; no tensor is read.

    `folder` holds the JSON files; tensors come from `source`, or from the folder's safetensors.
    Raises UntrustedCheckpoint, UnsupportedModel, InvalidLayerRange or UnsupportedDevice.
    """
    return StagePlan(folder, layers, options, FolderSource(folder) if source is None else source)


def load_stage(
    folder: Path,
    layers: LayerRange,
    options: StageOptions,
    source: TensorSource | None = None,
) -> Stage:
    """Plan a stage and load it with `options.kv_blocks`; raises what these raise."""
    return plan_stage(folder, layers, options, source).load(options.kv_blocks)


def choose_device(options: StageOptions, shape: ModelShape) -> tuple[torch.device, torch.dtype]:
    """The device and number format to run on. Raises UnsupportedDevice.

    bfloat16 on a CPU without AVX512-BF16 or AMX is refused: it runs 200 times slower than float32.
    """
    try:
        device = torch.device(options.device)
    except RuntimeError as err:
        raise UnsupportedDevice(f"{options.device!r}; use cpu, cuda or cuda:N") from err
    if device.type not in ("cpu", "cuda"):
        raise UnsupportedDevice(f"{options.device!r}; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnsupportedDevice(f"{options.device!r}, of {torch.cuda.device_count()} found")
    if options.dtype != "auto" and options.dtype not in NUMBER_FORMATS:
        raise UnsupportedDevice(f"dtype {options.dtype!r}; use auto, {', '.join(NUMBER_FORMATS)}")
    if device.type == "cuda":
        return device, _cuda_dtype(options.dtype, shape)
    dtype = NUMBER_FORMATS.get(options.dtype, torch.float32)
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if dtype is torch.float16 or (dtype is torch.bfloat16 and not has_bf16):
        raise UnsupportedDevice(f"{options.dtype} is far slower than float32 on this CPU")
    return device, dtype


def choose_quantization(
    options: StageOptions, device: torch.device, dtype: torch.dtype, parameter_count: int
) -> str:
    """none or int8 for a model of `parameter_count` parameters in all. Raises UnsupportedDevice.

    The same for every stage of a model on machines of one kind; small models gain little.
    """
    asked = options.quantization
    if asked not in QUANTIZATIONS:
        raise UnsupportedDevice(f"quantization {asked!r}; use {', '.join(QUANTIZATIONS)}")
    if asked == "none" or (asked == "auto" and parameter_count <= INT8_PARAMETERS_MIN):
        return "none"
    problem = None
    if device.type != "cpu":
        problem = f"int8 runs on a CPU only, not on {device}"
    elif dtype is not torch.float32:
        problem = f"int8 computes beside float32, not beside {options.dtype}"
    elif not kernel_is_exact():
        problem = "this CPU or build of torch has no exact int8 kernel (fbgemm)"
    if problem is None:
        return "int8"
    if asked == "int8":
        raise UnsupportedDevice(f"{problem}; use quantization auto or none")
    if device.type == "cpu":
        log.warning("int8 not usable", extra={"problem": problem})
    return "none"


def _cuda_dtype(asked: str, shape: ModelShape) -> torch.dtype:
    if asked != "auto":
        return NUMBER_FORMATS[asked]
    if shape.checkpoint_dtype == "float16" or not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _build_on_meta(folder: Path, shape: ModelShape) -> Any:
    """The whole model without memory. Raises UnsupportedModel when its config makes no sense."""
    register_attention()
    model_class = getattr(transformers, shape.architecture)
    data, _ = check_config_files(folder)
    kept = {key: value for key, value in data.items() if key not in _CONFIG_KEYS_DROPPED}
    kept["pad_token_id"] = None
    try:
        config = model_class.config_class.from_dict(kept)
        with torch.device("meta"):
            model = model_class(config)
        model.set_attn_implementation(ATTENTION_NAME)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as err:
        detail = f"{shape.architecture}: its config cannot be built: {str(err)[:300]}"
        raise UnsupportedModel(detail) from err
    _check_agreement(config, shape)
    return model.eval().requires_grad_(False)


def _check_agreement(config: Any, shape: ModelShape) -> None:
    """The JSON as we read it and as the model definition reads it must be one model."""
    pairs = {
        "num_hidden_layers": shape.layer_count,
        "hidden_size": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "num_attention_heads": shape.head_count,
        "num_key_value_heads": shape.kv_head_count,
        "tie_word_embeddings": shape.tie_embeddings,
        "head_dim": shape.head_dim,
    }
    for key, ours in pairs.items():
        theirs = getattr(config, key, ours)
        if theirs != ours:
            raise UnsupportedModel(f"{key} reads as {theirs} and as {ours}; state it in the config")


def _cut(model: Any, shape: ModelShape, layers: LayerRange, available: list[str]) -> dict[str, str]:
    """Drop what the stage does not run from `model`; layers keep their own absolute `layer_idx`.

    Returns, for every parameter that is left (by its name in the whole model), the name of the
    tensor that fills it. Raises UnsupportedModel for tensors the definition has no place for.
    """
    is_last = layers.is_last(shape.layer_count)
    head_name = HEAD
    if shape.tie_embeddings and HEAD not in available:
        head_name = EMBEDDING
    kept = set(tensors_needed([name for name, _ in _parameters(model)], shape, layers))
    if not layers.is_first:
        kept.discard(EMBEDDING)
    wanted = {name: head_name if name == HEAD else name for name in sorted(kept)}
    needed = tensors_needed(available, shape, layers)
    strangers = sorted(set(needed) - set(wanted.values()))
    if strangers:
        raise UnsupportedModel(
            f"{shape.architecture} has no place for {len(strangers)} stored tensors, "
            f"such as {strangers[0][:200]}"
        )
    if not layers.is_first:
        model.model.embed_tokens = None
    if not is_last:
        model.model.norm = nn.Identity()
        model.lm_head = None
    return wanted


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def _compute_buffers(model: Any, device: torch.device) -> None:
    """Give buffers that no checkpoint stores (rotary frequencies, embedding scale) their values.

    `_init_weights` computes them as loading by `transformers` does; parameters are still on the
    meta device, where initialising them costs nothing. Raises UnsupportedModel for sizes that no
    real model has, which no tensor would contradict.
    """
    for module in model.modules():
        names = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in names:
            buffer = module._buffers[name]
            if buffer.numel() > _BUFFER_ELEMENTS_MAX:
                raise UnsupportedModel(f"{name} would have {buffer.numel()} elements")
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
        if names:
            model._init_weights(module)
        for name in names:
            module._buffers[name] = module._buffers[name].to(device)


def _as_stage_model(
    model: Any,
    layers: LayerRange,
    shape: ModelShape,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str,
) -> StageModel:
    body = model.model
    body.layers = nn.ModuleList(body.layers[layers.start : layers.stop])
    head = model.lm_head if layers.is_last(shape.layer_count) else None
    return StageModel(
        body=body,
        head=head,
        logit_softcap=getattr(model.config, "final_logit_softcapping", None),
        attention_softcap=getattr(model.config, "attn_logit_softcapping", None),
        dtype=dtype,
        device=device,
        quantization=quantization,
        weight_bytes=weight_bytes([body] if head is None else [body, head]),
    )


def _names_in(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _opened(path: Path) -> Any:
    """Open a safetensors file. Raises UntrustedCheckpoint when it is missing or damaged."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError as err:
        raise UntrustedCheckpoint(path, "missing", "complete the download") from err
    except (SafetensorError, OSError) as err:
        raise UntrustedCheckpoint(path, f"damaged ({err})", "download it again") from err
