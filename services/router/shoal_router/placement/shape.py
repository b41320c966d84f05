"""Owns: what a range of a model's layers takes of a machine: memory, and time in layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as placement sees it. Bytes are those of the weights as they are stored.

    weight_bytes: of the whole model; 0 takes the sum of its parts. `layer_bytes` is the largest
    layer's, so that the sum may be more. least_bytes: of the whole in the smallest number format
    that a worker might choose. kv_layer_bytes: KV that an engine must have room for, per layer.
    overhead_bytes: of an engine process. token_bytes: what travels between two stages per token.
    """

    model: str
    layer_count: int
    layer_bytes: int
    embed_bytes: int = 0
    head_bytes: int = 0
    ties_embeddings: bool = False
    weight_bytes: int = 0
    least_bytes: int = 0
    kv_layer_bytes: int = 0
    overhead_bytes: int = 0
    token_bytes: int = 0

    def __post_init__(self) -> None:
        assert self.layer_count > 0
        assert self.layer_bytes > 0

    @property
    def head_layers(self) -> float:
        """The head's work for a token, in layers: both read all of their weights for it."""
        return (self.embed_bytes if self.ties_embeddings else self.head_bytes) / self.layer_bytes

    @property
    def work_layers(self) -> float:
        """The whole model's work for a token, in layers."""
        return self.layer_count + self.head_layers

    def work(self, layer_start: int, layer_stop: int) -> float:
        """The work of a range for a token, in layers; an embedding is a lookup."""
        return layer_stop - layer_start + self.head_layers * (layer_stop == self.layer_count)

    def stored_bytes(self, layer_start: int, layer_stop: int) -> int:
        """Weights of a range: what has to be fetched."""
        if layer_start == 0 and layer_stop == self.layer_count and self.weight_bytes:
            return self.weight_bytes
        size_bytes = (layer_stop - layer_start) * self.layer_bytes
        if layer_start == 0:
            size_bytes += self.embed_bytes
        if layer_stop == self.layer_count:
            size_bytes += self.head_bytes
            if self.ties_embeddings and layer_start > 0:
                size_bytes += self.embed_bytes
        return size_bytes

    def memory_bytes(self, layer_start: int, layer_stop: int) -> int:
        """What an engine of a range is expected to take."""
        kv_bytes = (layer_stop - layer_start) * self.kv_layer_bytes
        return self.stored_bytes(layer_start, layer_stop) + kv_bytes + self.overhead_bytes

    def least_memory_bytes(self, layer_start: int, layer_stop: int) -> int:
        """What it could do with, if its worker chooses the smallest number format."""
        stored_bytes = self.stored_bytes(layer_start, layer_stop)
        whole_bytes = self.stored_bytes(0, self.layer_count)
        return stored_bytes * min(self.least_bytes or whole_bytes, whole_bytes) // whole_bytes
