"""Whose address a request comes from, when proxies stand in between. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# One client owns a whole /64, so its addresses share a bucket.
_IPV6_PREFIX_BITS = 64
_HOPS_MAX = 32
_FORWARDED_FOR = re.compile(r'(?i)(?:^|;)\s*for\s*=\s*("[^"]*"|[^;,\s]+)')


def networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """Raises ValueError for what is neither an address nor a network."""
    return tuple(ip_network(cidr, strict=False) for cidr in cidrs)


def client_address(peer: str, headers: Mapping[str, str], trusted: Sequence[Network]) -> str:
    """The address nearest to us that is not a trusted proxy's; "" where there is none.

    Believes `X-Forwarded-For`, or else `Forwarded`, only from a trusted `peer`, and reads it from
    the right: what stands left of the first stranger is that stranger's claim. A proxy must
    replace or extend one of the two and drop the other.
    """
    address = _parse(peer)
    if address is None or not _is_trusted(address, trusted):
        return peer if address is None else str(address)
    for hop in reversed(_hops(headers)[-_HOPS_MAX:]):
        claimed = _parse(hop)
        if claimed is None:
            break
        address = claimed
        if not _is_trusted(address, trusted):
            break
    return str(address)


def bucket_of(address: str) -> str:
    """The name under which requests from an address are counted."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _IPV6_PREFIX_BITS), strict=False))
    return address


def _hops(headers: Mapping[str, str]) -> list[str]:
    listed = headers.get("X-Forwarded-For", "")
    if listed:
        return listed.split(",")
    found = []
    for element in headers.get("Forwarded", "").split(","):
        match = _FORWARDED_FOR.search(element)
        found.append(match[1].strip('"') if match else "")
    return found


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address | None:
    """An address with or without port and brackets; mapped IPv4 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address.version == net.version and address in net for net in trusted)
