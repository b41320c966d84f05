"""The index of vectors on a Qdrant server, over REST; several drafters may share it.

The collection is laid out as in the embedded driver, but for the cells: a server builds its own
graph for each large scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from shoal_entropy_drafter.cache import collection as layout
from shoal_entropy_drafter.cache.base import Match, Point, Vector
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.errors import CacheStoreAway

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
# Links of the graph within one scope; there is none across scopes, where nobody searches.
_SCOPE_LINKS = 16
_NOT_FOUND, _CONFLICT = 404, 409


class ServerIndex:
    """A VectorIndex at `url`. Not to be used again after `close`."""

    def __init__(
        self, url: str, api_key: str, collection: Collection, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        # Only where it is used: the client is large.
        from qdrant_client import AsyncQdrantClient

        self._collection = collection
        self._timeout_s = timeout_s
        self._client: AsyncQdrantClient = AsyncQdrantClient(
            url=url,
            # As a header: over plain HTTP inside a cluster the client would warn of a key.
            headers={"api-key": api_key} if api_key else None,
            timeout=max(1, round(timeout_s)),
            check_compatibility=False,
            # Where nothing is encrypted, the list of authorities need not be read: 0.1 s.
            verify=url.startswith("https:"),
        )
        self._is_started = False

    @property
    def is_started(self) -> bool:
        return self._is_started

    async def start(self) -> None:
        if self._is_started:
            return
        if not await self._answer(self._client.collection_exists(self._collection.name)):
            await self._create()
        await self._check()
        await self._index_fields()
        self._is_started = True

    async def upsert(self, point: Point) -> None:
        from qdrant_client import models

        payload = {
            layout.SCOPE: point.scope,
            layout.TENANT: point.tenant,
            layout.MODEL: point.model,
            layout.EXPIRES_AT: point.expires_at,
        }
        laid_out = models.PointStruct(id=point.id, vector=point.vector.tolist(), payload=payload)
        await self._answer(self._client.upsert(self._collection.name, [laid_out], wait=True))

    async def search(
        self, vector: Vector, scope: str, limit: int, similarity_min: float = -1.0
    ) -> list[Match]:
        found = await self._answer(
            self._client.query_points(
                self._collection.name,
                query=vector.tolist(),
                query_filter=_all_of([_equals(layout.SCOPE, scope)]),
                limit=limit,
                with_payload=[layout.SCOPE],
                score_threshold=similarity_min if similarity_min > -1 else None,
            )
        )
        # The filter has seen to it; a wrong answer is worth looking twice.
        return [
            Match(str(point.id), point.score)
            for point in found.points
            if point.payload and point.payload.get(layout.SCOPE) == scope
        ]

    async def delete(self, ids: Sequence[str]) -> None:
        from qdrant_client import models

        if ids:
            selected = models.PointIdsList(points=list(ids))
            await self._answer(self._client.delete(self._collection.name, selected, wait=True))

    async def delete_where(
        self, *, tenant: str = "", model: str = "", expired_at: int | None = None
    ) -> int:
        from qdrant_client import models

        pairs = ((layout.TENANT, tenant), (layout.MODEL, model))
        must = [_equals(name, value) for name, value in pairs if value]
        if expired_at is not None:
            expired = models.Range(lte=expired_at)
            must.append(models.FieldCondition(key=layout.EXPIRES_AT, range=expired))
        chosen = _all_of(must)
        name = self._collection.name
        counted = await self._answer(self._client.count(name, count_filter=chosen, exact=True))
        if counted.count:
            selected = models.FilterSelector(filter=chosen)
            await self._answer(self._client.delete(name, selected, wait=True))
        return int(counted.count)

    async def count(self) -> int:
        return int((await self._answer(self._client.count(self._collection.name))).count)

    async def tidy(self) -> None:
        """The server sees to itself."""

    async def close(self) -> None:
        self._is_started = False
        await self._client.close()

    async def _create(self) -> None:
        from qdrant_client import models
        from qdrant_client.http.exceptions import UnexpectedResponse

        size = self._collection.dimensions
        vectors = models.VectorParams(
            size=size, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16
        )
        making = self._client.create_collection(
            self._collection.name,
            vectors_config=vectors,
            hnsw_config=models.HnswConfigDiff(m=0, payload_m=_SCOPE_LINKS),
            metadata={layout.EMBEDDING_MODEL: self._collection.embedding_model},
        )
        try:
            await self._answer(making)
        except CacheStoreAway as err:
            cause = err.__cause__
            # Another drafter was quicker; what it made is checked like any other.
            if not isinstance(cause, UnexpectedResponse) or cause.status_code != _CONFLICT:
                raise

    async def _check(self) -> None:
        from qdrant_client import models

        info = await self._answer(self._client.get_collection(self._collection.name))
        vectors = info.config.params.vectors
        size = vectors.size if isinstance(vectors, models.VectorParams) else 0
        # Servers before 1.16 keep no metadata.
        metadata = info.config.metadata or {}
        self._collection.check(size, str(metadata.get(layout.EMBEDDING_MODEL, "")))

    async def _index_fields(self) -> None:
        """Idempotent, and done at every start: the one who made the collection may have died."""
        from qdrant_client import models

        scope = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        kinds: dict[str, Any] = {layout.SCOPE: scope}
        kinds |= dict.fromkeys(layout.KEYWORDS, models.PayloadSchemaType.KEYWORD)
        kinds[layout.EXPIRES_AT] = models.PayloadSchemaType.INTEGER
        for name, kind in kinds.items():
            making = self._client.create_payload_index(
                self._collection.name, field_name=name, field_schema=kind, wait=True
            )
            await self._answer(making)

    async def _answer(self, call: Awaitable[T]) -> T:
        """Raises CacheStoreAway; a collection that has gone is made again at the next start."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except TimeoutError as err:
            raise CacheStoreAway("qdrant", f"no answer in {self._timeout_s:g} s") from err
        except UnexpectedResponse as err:
            if err.status_code == _NOT_FOUND:
                self._is_started = False
            raise CacheStoreAway("qdrant", f"HTTP {err.status_code}") from err
        except (ApiException, QdrantException) as err:
            problem = type(getattr(err, "source", err)).__name__
            raise CacheStoreAway("qdrant", problem) from err


def _equals(name: str, value: str) -> Any:
    from qdrant_client import models

    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def _all_of(must: list[Any]) -> Any:
    from qdrant_client import models

    return models.Filter(must=must)
