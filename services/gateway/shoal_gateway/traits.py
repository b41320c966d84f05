"""What a model's small text files say of it: images, thinking levels. Read once per revision.

Not everything can be known of every model: where a file cannot be read, nothing is claimed.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from shoal.router.v1 import router_pb2
from shoal_common.errors import DeadlineExceeded, ShoalError
from shoal_gateway.models import file_entries
from shoal_gateway.peers import ShardStore

FILE_NAMES = ("config.json", "tokenizer_config.json", "chat_template.jinja")
REVISIONS_MAX = 256
READ_TIMEOUT_S = 2.0
# A config with one of these describes a model whose images go through an encoder of their own.
VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "visual")
SWITCH = ("on", "off")
EFFORTS = ("low", "medium", "high")
# From none to most; between neighbours it is as far everywhere.
_RANKS = {level: rank for rank, level in enumerate(("off", "minimal", *EFFORTS, "xhigh", "max"))}


@dataclass(frozen=True)
class ModelTraits:
    """`thinking_levels` are the words a request may use, none where the model has no choice."""

    needs_vision_encoder: bool = False
    thinking_levels: tuple[str, ...] = ()

    def nearest_level(self, level: str) -> str:
        """The model's own level that is nearest to one asked for; of two as near, the one that
        thinks less, but whoever asks for thoughts gets some where there are any.

        Any level stays as it is where the model has no choice, which then changes nothing. An
        effort switches a switch on; `on` leaves the effort to the model.
        """
        levels = self.thinking_levels
        if not levels or not level or level in levels:
            return level
        efforts = [known for known in levels if known not in SWITCH]
        if not efforts:
            if level == "off":
                return "on"
            return level if "on" in levels else "off"
        if level == "on":
            return level
        asked = _RANKS[level]
        return min(efforts, key=lambda known: (abs(_RANKS[known] - asked), _RANKS[known]))


def traits_of(files: Mapping[str, bytes]) -> ModelTraits:
    """From the contents of FILE_NAMES, as far as they are there. Pure; broken files say nothing."""
    config = _read_json(files.get("config.json", b""))
    template = files.get("chat_template.jinja", b"").decode(errors="replace")
    if not template:
        template = str(_read_json(files.get("tokenizer_config.json", b"")).get("chat_template"))
    levels: tuple[str, ...] = ()
    if "enable_thinking" in template:
        levels = SWITCH
    elif "reasoning_effort" in template:
        levels = EFFORTS
    return ModelTraits(any(config.get(key) for key in VISION_KEYS), levels)


class TraitsLibrary:
    """Traits by (model, revision), the least recently used dropped beyond a bound."""

    def __init__(self, store: ShardStore, declared_levels: Sequence[str] = ()) -> None:
        """`declared_levels` are those of models whose template says nothing of any."""
        self._store = store
        self._declared_levels = tuple(declared_levels)
        self._known: OrderedDict[tuple[str, str], ModelTraits] = OrderedDict()

    async def of(self, state: router_pb2.ModelState) -> ModelTraits:
        """Raises what the shard store raises."""
        key = (state.model, state.revision)
        if key not in self._known:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    traits = traits_of(await self._files(*key))
            except TimeoutError as err:
                raise DeadlineExceeded(
                    f"the files of model '{state.model}' did not come within "
                    f"{READ_TIMEOUT_S:g} s; try again"
                ) from err
            levels = traits.thinking_levels or self._declared_levels
            self._known[key] = replace(traits, thinking_levels=levels)
        self._known.move_to_end(key)
        while len(self._known) > REVISIONS_MAX:
            self._known.popitem(last=False)
        return self._known[key]

    async def of_all(self, states: Sequence[router_pb2.ModelState]) -> list[ModelTraits]:
        """In order; a model whose files cannot be read now has none."""
        return await asyncio.gather(*(self._or_none(state) for state in states))

    async def _or_none(self, state: router_pb2.ModelState) -> ModelTraits:
        try:
            return await self.of(state)
        except ShoalError:
            return ModelTraits()

    async def _files(self, model: str, revision: str) -> dict[str, bytes]:
        """Those whose digests hold."""
        entries = file_entries(await self._store.read_manifest(model, revision))
        contents = {}
        for name in FILE_NAMES:
            if name in entries:
                digest, size_bytes = entries[name]
                data = await self._store.read_file(digest, size_bytes)
                if blake3(data).hexdigest() == digest:
                    contents[name] = data
        return contents


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
