"""Which names the gateway answers to. Pure.

A web page cannot make a browser reach a loopback service under the page's own name when that name
is not on the list.
"""

from __future__ import annotations

from collections.abc import Sequence


def is_allowed_host(host: str, allowed: Sequence[str]) -> bool:
    """Whether the Host header names one of ours; all names are where none is listed.

    An entry is a name, `*.name` for everything below it, or either with a port; without one it
    allows every port.
    """
    if not allowed:
        return True
    name, port = _split(host)
    for entry in allowed:
        wanted, wanted_port = _split(entry)
        if wanted_port and wanted_port != port:
            continue
        if wanted == name or (wanted.startswith("*.") and name.endswith(wanted[1:])):
            return True
    return False


def is_allowed_origin(origin: str, allowed: Sequence[str]) -> bool:
    """Whether pages of `origin` may read answers; `*` allows all, an empty list none."""
    return bool(origin) and ("*" in allowed or origin.lower().rstrip("/") in allowed)


def _split(host: str) -> tuple[str, str]:
    """Name and port, lower-case; brackets of IPv6 stay off."""
    host = host.strip().lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    if host.count(":") == 1:
        name, _, port = host.partition(":")
        return name.rstrip("."), port
    return host.rstrip("."), ""
