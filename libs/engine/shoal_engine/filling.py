"""Gives a model definition its weights, tensor by tensor.

Owns checking the tensors of a source against the definition, and turning them into parameters or
int8 layers. Does not know where tensors come from. In int8 it holds, besides what is finished, the
stored tensors of one attention or MLP block, and a few MiB in float32.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from shoal_engine.errors import UnsupportedModel, UntrustedCheckpoint
from shoal_engine.quantise import Int8Linear, StoredEmbedding, packed_bytes, quantised
from shoal_engine.shape import EMBEDDING, LayerRange, ModelShape
from shoal_engine.smoothing import Block, Fold, blocks_of, folded_norm, folds_of, head_block

NUMBER_FORMATS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Integers and 8-bit floats mean nothing without their scales.
_STORED_DTYPES = (*NUMBER_FORMATS.values(), torch.float64)


class TensorSource(Protocol):
    """Anything that can hand out the tensors of a checkpoint by name."""

    def names(self) -> list[str]:
        """Names of all tensors there are."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU, in its stored dtype, owning its memory."""
        ...


class Filler:
    """Fills `model`, on the meta device, from `source`.

    wanted: for each parameter of `model`, the tensor that fills it. Errors name `folder`. Raises
    UntrustedCheckpoint at once when tensors are missing, and UnsupportedModel or
    UntrustedCheckpoint while filling for tensors of another format or shape.
    """

    def __init__(
        self, model: Any, wanted: Mapping[str, str], source: TensorSource, folder: Path
    ) -> None:
        missing = sorted(set(wanted.values()) - set(source.names()))
        if missing:
            raise UntrustedCheckpoint(
                folder,
                f"{len(missing)} tensors are missing, such as {missing[0][:200]}",
                "complete the download",
            )
        self._model = model
        self._wanted = wanted
        self._source = source
        self._folder = folder

    def fill(self, dtype: torch.dtype, device: torch.device) -> None:
        """Every parameter in `dtype` on `device`; a tied tensor is read once."""
        loaded: dict[str, nn.Parameter] = {}
        for target, name in self._wanted.items():
            if name not in loaded:
                tensor = self._read(target).to(device=device, dtype=dtype)
                loaded[name] = nn.Parameter(tensor, requires_grad=False)
            self._check_shape(target, loaded[name])
            self._set(target, loaded[name])

    def fill_int8(self, layers: LayerRange, shape: ModelShape) -> None:
        """Linear layers and head in int8, the embedding as it is stored, the rest in float32."""
        held: dict[str, torch.Tensor] = {}
        if layers.is_first:
            held[EMBEDDING] = self._embed()
        blocks = []
        for layer in range(layers.start, layers.stop):
            blocks += blocks_of(self._model, layer)
        if layers.is_last(shape.layer_count):
            blocks.append(head_block())
        done = {EMBEDDING}
        for block in blocks:
            done |= self._fill_block(block, held)
        for target in self._wanted:
            if target not in done:
                done |= self._fill_module(target.rpartition(".")[0])

    def _embed(self) -> torch.Tensor:
        weight = self._read(EMBEDDING)
        self._check_shape(EMBEDDING, weight)
        if weight.dtype is torch.float64:
            weight = weight.float()
        scale = getattr(self._model.model.embed_tokens, "embed_scale", None)
        self._model.model.embed_tokens = StoredEmbedding(weight, scale)
        return weight

    def _fill_block(self, block: Block, held: Mapping[str, torch.Tensor]) -> set[str]:
        """Fill the modules of a block, evened out; returns the parameters that are done."""
        targets = [target for name in block.modules for target in self._parameters_of(name)]
        tensors = {}
        for target in targets:
            shared = held.get(self._wanted[target])
            tensors[target] = self._read(target) if shared is None else shared
            self._check_shape(target, tensors[target])
        folds = folds_of(self._model, block, tensors)
        weight = tensors.pop(f"{block.norm}.weight")
        self._set_float(
            f"{block.norm}.weight", folded_norm(self._model, block.norm, weight, folds[block.norm])
        )
        norm_bias = tensors.pop(f"{block.norm}.bias", None)
        if norm_bias is not None:
            self._set_float(f"{block.norm}.bias", _divided(norm_bias, folds[block.norm]))
        for name in block.modules[1:]:
            bias = tensors.pop(f"{name}.bias", None)
            self._set_int8(name, tensors.pop(f"{name}.weight"), bias, folds[name])
        return set(targets)

    def _fill_module(self, name: str) -> set[str]:
        """Fill one module that belongs to no block; returns its parameters."""
        targets = self._parameters_of(name)
        tensors = {target: self._read(target) for target in targets}
        for target, tensor in tensors.items():
            self._check_shape(target, tensor)
        if isinstance(self._model.get_submodule(name), nn.Linear):
            self._set_int8(name, tensors.pop(f"{name}.weight"), tensors.get(f"{name}.bias"), Fold())
        else:
            for target, tensor in tensors.items():
                self._set_float(target, tensor)
        return set(targets)

    def _parameters_of(self, module: str) -> list[str]:
        own = (f"{module}.{name}" for name in self._model.get_submodule(module)._parameters)
        return [target for target in own if target in self._wanted]

    def _set_int8(
        self, name: str, weight: torch.Tensor, bias: torch.Tensor | None, fold: Fold
    ) -> None:
        integers, scales = quantised(weight, fold.rows, fold.columns)
        del weight
        whole_bias = None if bias is None else _divided(bias, fold)
        owner, _, attribute = name.rpartition(".")
        setattr(
            self._model.get_submodule(owner), attribute, Int8Linear(integers, scales, whole_bias)
        )

    def _set_float(self, target: str, tensor: torch.Tensor) -> None:
        self._set(target, nn.Parameter(tensor.float(), requires_grad=False))

    def _set(self, target: str, parameter: nn.Parameter) -> None:
        owner, _, attribute = target.rpartition(".")
        self._model.get_submodule(owner)._parameters[attribute] = parameter

    def _read(self, target: str) -> torch.Tensor:
        name = self._wanted[target]
        tensor = self._source.read(name)
        if tensor.dtype not in _STORED_DTYPES:
            raise UnsupportedModel(f"tensor {name[:200]} is stored as {tensor.dtype}")
        return tensor

    def _check_shape(self, target: str, tensor: torch.Tensor) -> None:
        expected = self._model.get_parameter(target).shape
        if tensor.shape != expected:
            raise UntrustedCheckpoint(
                self._folder,
                f"tensor {self._wanted[target][:200]} is {tuple(tensor.shape)}, the configuration "
                f"says {tuple(expected)}",
                "config.json and the tensors must belong together",
            )


def weight_bytes(modules: Iterable[nn.Module]) -> int:
    """Memory of the weights in `modules`, a shared one counted once."""
    parameters: dict[int, int] = {}
    packed = 0
    for module in modules:
        parameters |= {id(parameter): parameter.nbytes for parameter in module.parameters()}
        packed += sum(
            part.packed_bytes for part in module.modules() if isinstance(part, Int8Linear)
        )
    return sum(parameters.values()) + packed


def planned_weight_bytes(
    model: nn.Module,
    wanted: Mapping[str, str],
    dtype: torch.dtype,
    *,
    stored: torch.dtype,
    is_int8: bool,
) -> int:
    """What `weight_bytes` will say of `model`, still on the meta device, once it is filled.

    wanted: for each parameter that will be filled, its tensor. stored: the checkpoint's format.
    """
    if not is_int8:
        sizes = {name: model.get_parameter(target).numel() for target, name in wanted.items()}
        return sum(sizes.values()) * dtype.itemsize
    total = 0
    for target in wanted:
        owner, _, attribute = target.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, nn.Linear) and attribute == "weight":
            total += packed_bytes(module.out_features, module.in_features)
        elif target == EMBEDDING:
            total += model.get_parameter(target).numel() * stored.itemsize
        else:
            total += model.get_parameter(target).numel() * torch.float32.itemsize
    return total


def _divided(bias: torch.Tensor, fold: Fold) -> torch.Tensor:
    return bias.float() if fold.rows is None else bias.float() / fold.rows
