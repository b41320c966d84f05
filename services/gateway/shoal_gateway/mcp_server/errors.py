"""Errors of the MCP endpoint, and their shape on its wire."""

from __future__ import annotations

from typing import Any

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR

from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.errors import MalformedBody


class OriginRefused(InvalidRequest):
    """A web page of another origin calls: its name may have been pointed at this machine."""

    reason = "ORIGIN_REFUSED"
    http_status = 403

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"pages of the origin '{origin[:200]}' may not call this server; allow the origin in "
            "the gateway's settings if they should"
        )


def error_object(error: ShoalError) -> dict[str, Any]:
    """A JSON-RPC error that belongs to no request: it was refused before its id was read."""
    code = INVALID_REQUEST if error.http_status < 500 else INTERNAL_ERROR
    if isinstance(error, MalformedBody):
        code = PARSE_ERROR
    shape = {"code": code, "message": str(error), "data": {"reason": error.reason}}
    return {"jsonrpc": "2.0", "id": None, "error": shape}
