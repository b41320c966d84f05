"""Another shard-store: what it offers of a model, and the bytes of its blobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.errors import InvalidRequest, UnknownModel
from shoal_common.rpc import RpcChannel, translated
from shoal_shard_store.errors import DamagedManifest, ModelIncomplete, SourceBroken, SourceLies
from shoal_shard_store.manifest import revision_of
from shoal_shard_store.manifest_check import missing_digests, read_manifest

OFFER_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Offer:
    """What a store has of a model: a manifest that was checked, and the groups on its disk."""

    peer: PeerStore
    document: Mapping[str, Any]
    manifest_json: bytes
    groups_held: frozenset[str]
    node_id: str
    reads_open: int

    @property
    def is_draft(self) -> bool:
        return bool(missing_digests(self.document))


class PeerStore:
    """A connection to one store. Close it."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self.name = f"peer {address}"
        self._channel = RpcChannel(address, token=token, inherits_deadline=False)
        self._stub = pb_grpc.ShardStoreServiceStub(self._channel.channel)

    async def close(self) -> None:
        await self._channel.close()

    async def offer(self, model: str) -> Offer | None:
        """What it has of the model; None for nothing.

        Raises DamagedManifest for one that is not to be believed, Unavailable, DeadlineExceeded.
        """
        request = pb.GetManifestRequest(model=model, accepts_draft=True)
        try:
            with translated():
                answer = await self._stub.GetManifest(request, timeout=OFFER_TIMEOUT_S)
        except (UnknownModel, ModelIncomplete, InvalidRequest):
            return None
        except asyncio.CancelledError as err:
            if _is_cancelled():
                raise
            raise SourceBroken(self.name, "it left") from err
        document = await asyncio.to_thread(read_manifest, answer.manifest_json, model)
        if answer.revision and answer.revision != revision_of(answer.manifest_json):
            raise DamagedManifest(model, "it does not match its revision")
        return Offer(
            self,
            document,
            answer.manifest_json,
            frozenset(answer.groups_held),
            answer.node_id or self.address,
            answer.reads_open,
        )

    async def read(
        self, digest: str, offset_bytes: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """A range of a blob that is on that store's disk.

        Raises its errors, SourceBroken when it ends early or falls silent, SourceLies.
        """
        request = pb.ReadBlobRequest(
            digest=digest, offset_bytes=offset_bytes, length_bytes=size_bytes, is_local_only=True
        )
        call = self._stub.ReadBlob(request)
        messages = aiter(call)
        left = size_bytes
        try:
            with translated():
                while left:
                    async with asyncio.timeout(SILENCE_TIMEOUT_S):
                        message = await anext(messages, None)
                    if message is None:
                        raise SourceBroken(self.name, f"it ended {left} bytes early")
                    if not 0 < len(message.data) <= left:
                        raise SourceLies(self.name, digest, "other bytes than were asked for")
                    left -= len(message.data)
                    yield message.data
        except TimeoutError as err:
            raise SourceBroken(self.name, f"silent for {SILENCE_TIMEOUT_S:.0f} s") from err
        except asyncio.CancelledError as err:
            if _is_cancelled():
                raise
            # The connection was closed meanwhile: that store left the fleet.
            raise SourceBroken(self.name, "it left") from err
        finally:
            call.cancel()


def _is_cancelled() -> bool:
    """Whether somebody ends this task; gRPC says the same of a call whose channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
