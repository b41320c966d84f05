"""The BERT encoder as an ONNX graph, from token ids to vectors of length 1.

Owns the arithmetic. The weights stay in the safetensors file: the graph holds their places, and
the runtime maps them, so building takes milliseconds and needs no copy on disk. Uses operators of
ONNX itself only; those of onnxruntime for attention and bias were no faster at any length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from shoal_entropy_drafter.embedder.weights import BrokenWeights, Place

_OPSET = 20
_IR_VERSION = 10
# Added to the scores of padding; after softmax nothing of it is left in float32.
_MASKED = -1e9


@dataclass(frozen=True)
class BertShape:
    """A BERT encoder: `layer_count` layers of `width`, `head_count` heads, GELU."""

    layer_count: int
    width: int
    head_count: int
    norm_epsilon: float = 1e-12

    @property
    def head_width(self) -> int:
        return self.width // self.head_count


def encoder_graph(shape: BertShape, weights: Mapping[str, Place], file_name: str) -> bytes:
    """A serialised ONNX model whose weights lie in `file_name`, beside wherever it is loaded.

    Inputs `ids` (B, T) int64 and `mask` (B, T) float32, 1 for tokens and 0 for padding. Output
    `vectors` (B, D) float32: mean of the last layer over the tokens, divided by its length.
    Raises BrokenWeights when a weight is missing.
    """
    graph = _Graph(weights, file_name)
    encoder = _Encoder(shape, graph)
    hidden = encoder.embeddings()
    for layer in range(shape.layer_count):
        hidden = encoder.layer(hidden, f"encoder.layer.{layer}.")
    encoder.pooled(hidden, "vectors")
    return graph.model(shape.width)


class _Graph:
    """Nodes in order, and the constants and weights they use; values go by name."""

    def __init__(self, weights: Mapping[str, Place], file_name: str) -> None:
        self._weights = weights
        self._file_name = file_name
        self._nodes: list[onnx.NodeProto] = []
        self._held: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = name or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant vector."""
        self._held[name] = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def real(self, name: str, value: float) -> str:
        """A constant number."""
        self._held[name] = numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the file, by its name there."""
        place = self._weights.get(name)
        if place is None:
            raise BrokenWeights(f"{self._file_name} has no tensor {name}")
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=place.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        where = (
            ("location", self._file_name),
            ("offset", place.offset_bytes),
            ("length", place.size_bytes),
        )
        for key, value in where:
            tensor.external_data.add(key=key, value=str(value))
        self._held[name] = tensor
        return name

    def model(self, width: int) -> bytes:
        """All of it, serialised."""
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [
                helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["B", "T"]),
                helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["B", "T"]),
            ],
            [helper.make_tensor_value_info("vectors", onnx.TensorProto.FLOAT, ["B", width])],
            list(self._held.values()),
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        return model.SerializeToString()


class _Encoder:
    """Parts of BERT; hidden states are (B x T, D) between them, so that weights need no turning."""

    def __init__(self, shape: BertShape, graph: _Graph) -> None:
        self._graph = graph
        self._epsilon = shape.norm_epsilon
        op, integers = graph.op, graph.integers
        batch = op("Shape", "ids")
        width = integers("width", [shape.width])
        heads = integers("heads", [shape.head_count, shape.head_width])
        self._flat = integers("flat", [-1, shape.width])
        self._cube = op("Concat", batch, width, axis=0)
        self._heads = op("Concat", batch, heads, axis=0)
        self._length = op("Shape", "ids", start=1)
        self._scale = graph.real("scale", shape.head_width**-0.5)
        padding = op("Sub", graph.real("one", 1), "mask")
        masked = op("Mul", padding, graph.real("masked", _MASKED))
        self._bias = op("Unsqueeze", masked, integers("axes_1_2", [1, 2]))

    def embeddings(self) -> str:
        """Words, their places and the first segment, normalised."""
        graph = self._graph
        first, second = graph.integers("first", [0]), graph.integers("second", [1])
        table = "embeddings.{}_embeddings.weight".format
        words = graph.op("Gather", graph.weight(table("word")), "ids")
        places = graph.op("Slice", graph.weight(table("position")), first, self._length, first)
        segment = graph.op("Slice", graph.weight(table("token_type")), first, second, first)
        summed = graph.op("Add", words, graph.op("Add", places, segment))
        return self._norm(graph.op("Reshape", summed, self._flat), "embeddings.LayerNorm")

    def layer(self, hidden: str, prefix: str) -> str:
        """Attention and the two dense layers after it, each with its residual and norm."""
        op = self._graph.op
        mixed = self._linear(self._attention(hidden, prefix), prefix + "attention.output.dense")
        hidden = self._norm(op("Add", mixed, hidden), prefix + "attention.output.LayerNorm")
        inner = op("Gelu", self._linear(hidden, prefix + "intermediate.dense"))
        outer = self._linear(inner, prefix + "output.dense")
        return self._norm(op("Add", outer, hidden), prefix + "output.LayerNorm")

    def pooled(self, hidden: str, name: str) -> None:
        """Sum over the tokens, to length 1: the mean has the same direction."""
        op = self._graph.op
        axis = self._graph.integers("axis_1", [1])
        rows = op("Unsqueeze", "mask", axis)
        summed = op("MatMul", rows, op("Reshape", hidden, self._cube))
        op("LpNormalization", op("Squeeze", summed, axis), axis=-1, p=2, name=name)

    def _attention(self, hidden: str, prefix: str) -> str:
        op = self._graph.op

        def heads(kind: str, order: list[int]) -> str:
            states = self._linear(hidden, f"{prefix}attention.self.{kind}")
            return op("Transpose", op("Reshape", states, self._heads), perm=order)

        queries = op("Mul", heads("query", [0, 2, 1, 3]), self._scale)
        scores = op("MatMul", queries, heads("key", [0, 2, 3, 1]))
        shares = op("Softmax", op("Add", scores, self._bias), axis=-1)
        mixed = op("MatMul", shares, heads("value", [0, 2, 1, 3]))
        return op("Reshape", op("Transpose", mixed, perm=[0, 2, 1, 3]), self._flat)

    def _linear(self, hidden: str, name: str) -> str:
        weight, bias = self._graph.weight(f"{name}.weight"), self._graph.weight(f"{name}.bias")
        return self._graph.op("Gemm", hidden, weight, bias, transB=1)

    def _norm(self, hidden: str, name: str) -> str:
        weight, bias = self._graph.weight(f"{name}.weight"), self._graph.weight(f"{name}.bias")
        return self._graph.op(
            "LayerNormalization", hidden, weight, bias, axis=-1, epsilon=self._epsilon
        )
