"""The fleet's own embeddings: the entropy-drafter's, with what it said of itself lately.

Knows how many texts go into one call, and whether a text stays where its owner wants it. Does not
know HTTP, nor how vectors are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from shoal.drafter.v1 import drafter_pb2
from shoal_common.clock import Clock
from shoal_common.driving import PeerUnreachable, Privacy
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.cascade.eligibility import is_here
from shoal_gateway.drafter import Drafter
from shoal_gateway.privacy import LABEL_HEADER

FRESH_S = 5.0
DESCRIBE_TIMEOUT_S = 2.0
# One short text takes the local model some 8 ms (bench/results/embedding.json), and a call has a
# time limit of its own.
TEXTS_PER_CALL = 256


class OwnEmbedder:
    """Never asks a drafter that is away more than once in `FRESH_S`."""

    def __init__(self, drafter: Drafter, address: str, clock: Clock) -> None:
        """address: the drafter's, which tells whether it runs on this machine."""
        self._drafter = drafter
        self._is_here = is_here(address)
        self._clock = clock
        self._said: drafter_pb2.DescribeResponse | None = None
        self._is_away = False
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    async def described(self) -> drafter_pb2.DescribeResponse:
        """What the drafter says of itself, at most `FRESH_S` old. Raises Unavailable."""
        async with self._asking:
            now_s = self._clock.monotonic()
            if self._asked_at is None or now_s - self._asked_at >= FRESH_S:
                self._is_away = not await self._ask()
                self._asked_at = self._clock.monotonic()
        if self._is_away or self._said is None:
            raise PeerUnreachable("the entropy-drafter")
        return self._said

    async def model(self) -> str:
        """The embedding model's name, as it was heard last; "" where it never was."""
        try:
            return (await self.described()).embedding_model
        except ShoalError:
            return "" if self._said is None else self._said.embedding_model

    def require_private(self, described: drafter_pb2.DescribeResponse, privacy: Privacy) -> None:
        """Raises InvalidRequest where the texts would go further than they may."""
        is_bounded_here = privacy.label == "local" or privacy.is_boomerang
        if privacy.is_open or (described.embeds_itself and (self._is_here or not is_bounded_here)):
            return
        where = "on another machine" if described.embeds_itself else "by somebody else"
        raise InvalidRequest(
            f"'{LABEL_HEADER}' keeps the texts nearer than model '{described.embedding_model}', "
            f"which is run {where}: leave the header out or ask the fleet's operator",
            param=LABEL_HEADER,
        )

    async def embed(
        self, request_id: str, texts: Sequence[str]
    ) -> AsyncGenerator[drafter_pb2.EmbedResponse, None]:
        """The vectors of all texts in order, as many at a time as one call makes."""
        for start in range(0, len(texts), TEXTS_PER_CALL):
            part = texts[start : start + TEXTS_PER_CALL]
            yield await self._drafter.embed(f"{request_id}-{start}", part)

    async def _ask(self) -> bool:
        """Whether the drafter has answered."""
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                self._said = await self._drafter.describe()
        except (ShoalError, TimeoutError):
            return False
        return True
