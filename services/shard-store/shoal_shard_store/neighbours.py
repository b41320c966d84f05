"""The other shard-stores: who they are, and what they offer.

Owns connections to stores that were configured or heard on the bus. One that is silent is
forgotten. Does not know what is fetched from them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from shoal.shard_store.v1.beat_pb2 import StoreBeat
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_common.rpc import address_of
from shoal_shard_store.sources.peer import Offer, PeerStore

log = logging.getLogger(__name__)

SUBJECT = "shoal.store.*.beat"
STORE_COUNT_MAX = 256
_BEAT_SIZE_BYTES_MAX = 1 << 20
_NAME_LENGTH_MAX = 128


class Neighbours:
    """Stores by address. Invariant: this store is none of them."""

    def __init__(
        self, clock: Clock, token: str, store_id: str, addresses: Sequence[str], timeout_s: float
    ) -> None:
        """timeout_s: after it, a store that was heard and is silent counts as gone."""
        self._clock = clock
        self._token = token
        self._store_id = store_id
        self._timeout_s = timeout_s
        self._configured = {address: PeerStore(address, token) for address in addresses}
        self._heard: dict[str, tuple[StoreBeat, float, PeerStore]] = {}
        self._gone: list[PeerStore] = []

    async def on_beat(self, subject: str, payload: bytes) -> None:
        """Take a beat from the bus in; nonsense is dropped."""
        beat = _parsed(payload)
        if beat is None or beat.store_id == self._store_id:
            return
        known = self._heard.pop(beat.store_id, None)
        self._trim()
        address = address_of(beat.locator)
        if known is not None and known[2].address != address:
            self._gone.append(known[2])
            known = None
        if beat.is_leaving:
            if known is not None:
                self._gone.append(known[2])
        elif known is not None or len(self._heard) < STORE_COUNT_MAX:
            peer = known[2] if known else PeerStore(address, self._token)
            self._heard[beat.store_id] = (beat, self._clock.monotonic(), peer)
        await self._close_gone()

    def beats(self) -> list[StoreBeat]:
        """The last word of every store that is alive."""
        self._trim()
        return [beat for beat, _, _ in self._heard.values()]

    def node_ids(self) -> list[str]:
        """Of the stores that are alive."""
        return sorted({beat.node_id for beat in self.beats()})

    def peers(self) -> list[PeerStore]:
        """Everybody who can be asked."""
        self._trim()
        found = dict(self._configured)
        for _, _, peer in self._heard.values():
            found.setdefault(peer.address, peer)
        return [found[address] for address in sorted(found)]

    async def offers(self, model: str) -> list[Offer]:
        """What the others have of a model; who does not answer in time has nothing."""
        found = await asyncio.gather(*(self._offer(peer, model) for peer in self.peers()))
        unique = {offer.node_id: offer for offer in found if offer is not None}
        return list(unique.values())

    async def close(self) -> None:
        """Close every connection."""
        self._gone += [peer for _, _, peer in self._heard.values()]
        self._gone += self._configured.values()
        self._heard.clear()
        self._configured.clear()
        await self._close_gone()

    async def _offer(self, peer: PeerStore, model: str) -> Offer | None:
        try:
            return await peer.offer(model)
        except ShoalError as err:
            log.info("neighbour offers nothing", extra={"peer": peer.address, "error": err.reason})
            return None

    def _trim(self) -> None:
        oldest_s = self._clock.monotonic() - self._timeout_s
        silent = [key for key, (_, heard_s, _) in self._heard.items() if heard_s < oldest_s]
        for key in silent:
            self._gone.append(self._heard.pop(key)[2])

    async def _close_gone(self) -> None:
        gone, self._gone = self._gone, []
        for peer in gone:
            await peer.close()


def _parsed(payload: bytes) -> StoreBeat | None:
    if len(payload) > _BEAT_SIZE_BYTES_MAX:
        return None
    try:
        beat = StoreBeat.FromString(payload)
        address_of(beat.locator)
    except (DecodeError, InvalidRequest):
        return None
    is_named = all(0 < len(name) <= _NAME_LENGTH_MAX for name in (beat.store_id, beat.node_id))
    return beat if is_named else None
