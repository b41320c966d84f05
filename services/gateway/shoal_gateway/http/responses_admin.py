"""Stored responses of all callers, for the operator."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.responses_render import STATUSES
from shoal_gateway.http.paging import query_integer
from shoal_gateway.responses.store import ResponseStore


@dataclass(frozen=True)
class ResponsesAdminRoutes:
    """The handler with what it needs."""

    store: ResponseStore

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/admin/responses", self.list_recent)

    async def list_recent(self, request: web.Request) -> web.Response:
        """The newest first."""
        count_max = query_integer(request, "limit", 100, 1, 500)
        status = request.query.get("status", "")
        if status and status not in STATUSES:
            raise InvalidRequest(f"'status' must be one of {', '.join(STATUSES)}", param="status")
        found = await self.store.recent(count_max, status)
        rows = [{"id": each.response_id} | asdict(each) for each in found]
        return web.json_response({"responses": rows})
