"""Which models the fleet serves, and their text side, read once per revision."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict

from blake3 import blake3

from shoal.router.v1 import router_pb2
from shoal_common.clock import Clock
from shoal_common.driving import PeerUnreachable, Router
from shoal_common.errors import UnknownModel
from shoal_common.tokens import ModelTokens
from shoal_common.tokens.errors import ModelFilesBroken
from shoal_common.tokens.model_tokens import FILE_NAMES
from shoal_gateway.errors import NoModelReady
from shoal_gateway.peers import ShardStore

STATES_AGE_S_MAX = 1.0
REVISIONS_MAX = 16
_ASK_AGAIN_S = 0.1


class ModelDirectory:
    """What the router says, at most one second old."""

    def __init__(
        self, router: Router, clock: Clock, default_model: str, router_wait_s: float = 0.0
    ) -> None:
        """router_wait_s: how long `await_model` asks a router that cannot be reached."""
        self._router = router
        self._clock = clock
        self._default_model = default_model
        self._router_wait_s = router_wait_s
        self._states: tuple[router_pb2.ModelState, ...] = ()
        self._read_at: float | None = None

    async def states(
        self, age_s_max: float = STATES_AGE_S_MAX
    ) -> tuple[router_pb2.ModelState, ...]:
        """The default model first: clients that let nobody choose take the first of a list."""
        now = self._clock.monotonic()
        if self._read_at is None or now - self._read_at > age_s_max:
            states = await self._router.list_models()
            self._states = tuple(sorted(states, key=lambda s: s.model != self._default_model))
            self._read_at = now
        return self._states

    def forget(self) -> None:
        """The fleet has changed: the next question goes to the router."""
        self._read_at = None

    async def find(self, name: str) -> router_pb2.ModelState:
        """The model of that name; "" means the default, else the first that is ready.

        Where none is ready, the first that is loaded on demand.

        Raises UnknownModel, NoModelReady.
        """
        wanted = name or self._default_model
        found = _pick(await self.states(), wanted)
        if found is None:
            found = _pick(await self.states(age_s_max=0.0), wanted)
        if found is not None:
            return found
        if not wanted:
            raise NoModelReady
        raise UnknownModel(wanted, tuple(state.model for state in self._states))

    async def await_model(self, name: str) -> router_pb2.ModelState:
        """`find`, with some patience for a router that is down or has only just come back."""
        give_up_at: float | None = None
        while True:
            try:
                return await self.find(name)
            except (PeerUnreachable, UnknownModel, NoModelReady) as err:
                now = self._clock.monotonic()
                if give_up_at is None:
                    if not isinstance(err, PeerUnreachable):
                        raise
                    give_up_at = now + self._router_wait_s
                if now >= give_up_at:
                    raise
            await self._clock.sleep(_ASK_AGAIN_S)
            self.forget()


def _pick(states: tuple[router_pb2.ModelState, ...], wanted: str) -> router_pb2.ModelState | None:
    if wanted:
        return next((state for state in states if state.model == wanted), None)
    is_ready = next((state for state in states if state.is_ready), None)
    return is_ready or next((state for state in states if state.is_loadable), None)


class ModelLibrary:
    """Text sides by (model, revision), the least recently used dropped beyond a bound.

    Concurrent requests for one revision share one read; a failed read is not remembered.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._reads: OrderedDict[tuple[str, str], asyncio.Task[ModelTokens]] = OrderedDict()

    async def tokens(self, model: str, revision: str) -> ModelTokens:
        key = (model, revision)
        if key not in self._reads or _has_failed(self._reads[key]):
            self._reads[key] = asyncio.create_task(self._read(model, revision))
        self._reads.move_to_end(key)
        task = self._reads[key]
        done = [old for old, read in self._reads.items() if read.done() and old != key]
        for old in done[: max(0, len(self._reads) - REVISIONS_MAX)]:
            del self._reads[old]
        # A caller that goes away must not end the read for the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in self._reads.values():
            task.cancel()
        await asyncio.gather(*self._reads.values(), return_exceptions=True)
        self._reads.clear()

    async def _read(self, model: str, revision: str) -> ModelTokens:
        files = file_entries(await self._store.read_manifest(model, revision))
        contents = {}
        for name in FILE_NAMES:
            if name in files:
                digest, size_bytes = files[name]
                contents[name] = await self._store.read_file(digest, size_bytes)
                if blake3(contents[name]).hexdigest() != digest:
                    raise ModelFilesBroken(name, "its digest differs from the manifest's")
        return await asyncio.to_thread(ModelTokens.from_files, contents)


def _has_failed(task: asyncio.Task[ModelTokens]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def file_entries(manifest_json: bytes) -> dict[str, tuple[str, int]]:
    """Digest and size by file name, from a manifest. Raises ModelFilesBroken."""
    try:
        files = json.loads(manifest_json)["files"]
        return {
            str(name): (str(entry["digest"]), int(entry["size_bytes"]))
            for name, entry in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise ModelFilesBroken("manifest.json", "it has no list of files") from err
