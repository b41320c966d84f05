"""Named keys over HTTP, for admins: create, list, rotate, revoke."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.access.callers import DEFAULT_SCOPES, SCOPES
from shoal_gateway.access.gate import Gate
from shoal_gateway.access.key_store import NAME_CHARS_MAX, KeyRecord, NewKey
from shoal_gateway.dialects import fields
from shoal_gateway.http.body import read_object

_BUDGET_MAX = 2**53
_KNOWN_FIELDS = ("name", "scopes", "monthly_token_budget", "tenant")


@dataclass(frozen=True)
class KeyRoutes:
    """The handlers with what they need."""

    gate: Gate

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/api/admin/keys", self.create)
        app.router.add_get("/api/admin/keys", self.list)
        app.router.add_post("/api/admin/keys/{key_id}/rotate", self.rotate)
        app.router.add_delete("/api/admin/keys/{key_id}", self.revoke)

    async def create(self, request: web.Request) -> web.Response:
        given = fields.present(await read_object(request))
        fields.unknown(given, _KNOWN_FIELDS, is_strict=True)
        name = limits.as_text(given.get("name"), "name").strip()
        limits.check_length(name, "name", 1, NAME_CHARS_MAX)
        tenant = limits.as_text(given.get("tenant", ""), "tenant").strip()
        limits.check_length(tenant, "tenant", 0, NAME_CHARS_MAX)
        budget = fields.integer(given, "monthly_token_budget", 0, _BUDGET_MAX)
        made = await self.gate.keys.create(name, _scopes(given), budget, tenant)
        return web.json_response(_new(made), status=201)

    async def list(self, request: web.Request) -> web.Response:
        used = await self.gate.budgets.used_by_all()
        records = await self.gate.keys.list()
        data = [_shown(record) | {"used_tokens": used.get(record.tenant, 0)} for record in records]
        return web.json_response({"object": "list", "month": self.gate.budgets.month, "data": data})

    async def rotate(self, request: web.Request) -> web.Response:
        made = await self.gate.keys.rotate(request.match_info["key_id"])
        self.gate.callers.forget()
        return web.json_response(_new(made))

    async def revoke(self, request: web.Request) -> web.Response:
        record = await self.gate.keys.revoke(request.match_info["key_id"])
        self.gate.callers.forget()
        return web.json_response(_shown(record))


def _scopes(given: dict[str, Any]) -> tuple[str, ...]:
    entries = limits.as_list(given.get("scopes", list(DEFAULT_SCOPES)), "scopes", len(SCOPES))
    wanted = {limits.as_text(entry, "scopes") for entry in entries}
    if not wanted or wanted - set(SCOPES):
        raise InvalidRequest(f"'scopes' must be some of {', '.join(SCOPES)}", param="scopes")
    return tuple(scope for scope in SCOPES if scope in wanted)


def _new(made: NewKey) -> dict[str, Any]:
    """The only answer that holds a key."""
    return _shown(made.record) | {"key": made.secret}


def _shown(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.key_id,
        "object": "api_key",
        "name": record.name,
        "tenant": record.tenant,
        "scopes": list(record.scopes),
        "monthly_token_budget": record.monthly_token_budget,
        "created_at": _moment(record.created_at),
        "last_used_at": _moment(record.last_used_at),
        "revoked_at": _moment(record.revoked_at),
    }


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
