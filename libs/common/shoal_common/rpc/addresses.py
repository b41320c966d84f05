"""Addresses (`host:port`, `unix:/path`) and locators (`grpc:` and an address)."""

from __future__ import annotations

from shoal_common.errors import InvalidRequest

_SCHEME = "grpc:"


def locator(address: str) -> str:
    return address if address.startswith(_SCHEME) else _SCHEME + address


def address_of(where: str) -> str:
    """The address in a locator; an address stays what it is. Raises InvalidRequest for others."""
    address = where.removeprefix(_SCHEME)
    if address.startswith("unix:") or (":" in address and not address.startswith("bridge:")):
        return address
    raise InvalidRequest(f"'{where}' is not an address; write host:port, unix:/path or grpc:...")
