"""Addresses of gRPC servers: "host:port", "unix:/path", and the locators that name them."""

from __future__ import annotations

from pathlib import Path

from shoal_common.errors import InvalidRequest

_SCHEME = "grpc:"
_SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, less its closing zero


def locator(address: str) -> str:
    """The locator of an address, by which plans and beats name it; a locator stays what it is."""
    return address if address.startswith(_SCHEME) else _SCHEME + address


def address_of(where: str) -> str:
    """The address in a `grpc:` locator; an address stays what it is.

    Raises InvalidRequest for other locators and malformed addresses.
    """
    address = where.removeprefix(_SCHEME)
    if not is_address(address):
        raise InvalidRequest(
            f"'{where[:200]}' is not an address; write host:port, unix:/path or grpc:...",
            param="locator",
        )
    path = socket_path(address)
    if path is not None and len(bytes(path)) > _SOCKET_PATH_BYTES_MAX:
        raise InvalidRequest(
            f"socket path {path} has {len(bytes(path))} bytes; the system allows "
            f"{_SOCKET_PATH_BYTES_MAX}: choose a shorter data folder"
        )
    return address


def is_address(text: str) -> bool:
    """Whether `text` has the form of an address."""
    if text.startswith("unix:"):
        return len(text) > len("unix:")
    host, _, port = text.rpartition(":")
    if not host or (":" in host and not host.startswith("[")):  # bridge:..., bare IPv6
        return False
    return port.isdecimal() and int(port) < 65536


def socket_path(address: str) -> Path | None:
    """The path of a Unix socket address, None for others."""
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
