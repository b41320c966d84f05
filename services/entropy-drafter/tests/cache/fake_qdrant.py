"""As much of Qdrant's REST interface as the cache uses, in memory, on a real port.

Bodies are read with the client's own models, which refuse what the server would refuse. Shapes of
the answers follow the same models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web
from qdrant_client import models


class FakeQdrant:
    """collections: name -> body of its creation and points. status: answered to all, if set.

    may_answer: cleared, requests hang.
    """

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Any]] = {}
        self.status = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""
        self.keys: set[str | None] = set()
        self.request_count = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._weather])
        collection = "/collections/{name}"
        app.router.add_get(f"{collection}/exists", self.exists)
        app.router.add_get(collection, self.info)
        app.router.add_put(collection, self.create)
        app.router.add_put(f"{collection}/index", self.index)
        app.router.add_put(f"{collection}/points", self.upsert)
        app.router.add_post(f"{collection}/points/query", self.query)
        app.router.add_post(f"{collection}/points/delete", self.delete)
        app.router.add_post(f"{collection}/points/count", self.count)
        return app

    async def exists(self, request: web.Request) -> web.Response:
        return _ok({"exists": request.match_info["name"] in self.collections})

    async def create(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await request.json()
        models.CreateCollection.model_validate(body)
        if name in self.collections:
            return _refused(409, f"Wrong input: Collection `{name}` already exists!")
        self.collections[name] = {"body": body, "points": {}, "schema": {}}
        return _ok(True)

    async def info(self, request: web.Request) -> web.Response:
        held = self._held(request)
        body = held["body"]
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizers = {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        }
        config = {
            "params": {"vectors": body["vectors"], "shard_number": 1, "on_disk_payload": True},
            "hnsw_config": hnsw | body.get("hnsw_config", {}),
            "optimizer_config": optimizers,
            "metadata": body.get("metadata"),
        }
        told = {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": len(held["points"]),
            "indexed_vectors_count": 0,
            "segments_count": 1,
            "config": config,
            "payload_schema": held["schema"],
        }
        models.CollectionInfo.model_validate(told)
        return _ok(told)

    async def index(self, request: web.Request) -> web.Response:
        body = models.CreateFieldIndex.model_validate(await request.json())
        schema = body.field_schema
        kind = schema if isinstance(schema, models.PayloadSchemaType) else schema.type  # type: ignore[union-attr]
        self._held(request)["schema"][body.field_name] = {"data_type": kind.value, "points": 0}
        return _ok(_done())

    async def upsert(self, request: web.Request) -> web.Response:
        held = self._held(request)
        size = held["body"]["vectors"]["size"]
        for point in models.PointsList.model_validate(await request.json()).points:
            if len(point.vector) != size:
                return _refused(400, f"Vector dimension error: expected dim: {size}")
            vector = np.array(point.vector, dtype=np.float32)
            held["points"][point.id] = (vector / np.linalg.norm(vector), point.payload)
        return _ok(_done())

    async def query(self, request: web.Request) -> web.Response:
        body = models.QueryRequest.model_validate(await request.json())
        assert isinstance(body.query, models.NearestQuery)
        asked = np.array(body.query.nearest, dtype=np.float32)
        asked /= np.linalg.norm(asked)
        found = [
            {"id": one, "version": 0, "score": float(vector @ asked), "payload": payload}
            for one, (vector, payload) in self._held(request)["points"].items()
            if _fits(payload, body.filter)
        ]
        least = -2.0 if body.score_threshold is None else body.score_threshold
        found = [point for point in found if point["score"] >= least]
        found.sort(key=lambda point: -point["score"])
        return _ok({"points": found[: body.limit or 10]})

    async def delete(self, request: web.Request) -> web.Response:
        held = self._held(request)
        body = await request.json()
        if "points" in body:
            for one in models.PointIdsList.model_validate(body).points:
                held["points"].pop(one, None)
        else:
            chosen = models.FilterSelector.model_validate(body).filter
            gone = [one for one, (_, kept) in held["points"].items() if _fits(kept, chosen)]
            for one in gone:
                del held["points"][one]
        return _ok(_done())

    async def count(self, request: web.Request) -> web.Response:
        body = models.CountRequest.model_validate(await request.json())
        points = self._held(request)["points"].values()
        return _ok({"count": sum(_fits(payload, body.filter) for _, payload in points)})

    def _held(self, request: web.Request) -> dict[str, Any]:
        name = request.match_info["name"]
        if name not in self.collections:
            raise web.HTTPNotFound(text=f"Collection `{name}` doesn't exist!")
        return self.collections[name]

    @web.middleware
    async def _weather(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.request_count += 1
        self.keys.add(request.headers.get("api-key"))
        await self.may_answer.wait()
        if self.status:
            return _refused(self.status, "Service internal error")
        answer: web.StreamResponse = await handler(request)
        return answer


@asynccontextmanager
async def served(fake: FakeQdrant, port: int = 0) -> AsyncIterator[FakeQdrant]:
    """It listens on `fake.url`; on the same port again after it went away, where one is given."""
    runner = web.AppRunner(fake.app(), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()


def _fits(payload: dict[str, Any], chosen: models.Filter | None) -> bool:
    conditions: Sequence[Any] = (chosen.must or []) if chosen else []  # type: ignore[assignment]
    return all(_holds(payload, condition) for condition in conditions)


def _holds(payload: dict[str, Any], condition: models.FieldCondition) -> bool:
    value = payload.get(condition.key)
    if isinstance(condition.match, models.MatchValue):
        return bool(value == condition.match.value)
    bounds = condition.range
    assert isinstance(bounds, models.Range)
    assert bounds.lte is not None
    return value is not None and value <= bounds.lte


def _done() -> dict[str, Any]:
    return {"operation_id": 1, "status": "completed"}


def _ok(result: Any) -> web.Response:
    return web.json_response({"result": result, "status": "ok", "time": 0.0001})


def _refused(status: int, problem: str) -> web.Response:
    return web.json_response({"status": {"error": problem}, "time": 0.0}, status=status)
