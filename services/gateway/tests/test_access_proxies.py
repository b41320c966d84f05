"""Whose address counts."""

from __future__ import annotations

import pytest

from shoal_gateway.access.proxies import bucket_of, client_address, networks

TRUSTED = networks(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        # Nobody believes a stranger.
        ("9.9.9.9", {"X-Forwarded-For": "1.2.3.4"}, "9.9.9.9"),
        ("9.9.9.9", {"Forwarded": "for=1.2.3.4"}, "9.9.9.9"),
        ("10.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, "1.2.3.4"),
        # What a client wrote itself stands to the left of what the proxy saw.
        ("10.0.0.1", {"X-Forwarded-For": "8.8.8.8, 1.2.3.4"}, "1.2.3.4"),
        ("10.0.0.1", {"X-Forwarded-For": "8.8.8.8, 1.2.3.4, 10.0.0.2"}, "1.2.3.4"),
        ("10.0.0.1", {"X-Forwarded-For": "1.2.3.4:5678"}, "1.2.3.4"),
        ("10.0.0.1", {"X-Forwarded-For": "nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": "1.2.3.4, nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": ""}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": 'for="[2001:db8::1]:99";proto=https'}, "2001:db8::1"),
        ("10.0.0.1", {"Forwarded": "for=8.8.8.8, proto=http;for=1.2.3.4"}, "1.2.3.4"),
        ("10.0.0.1", {"Forwarded": "for=1.2.3.4, for=_hidden"}, "10.0.0.1"),
        ("::ffff:10.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, "1.2.3.4"),
        ("fd00::1", {"X-Forwarded-For": "2001:db8::1"}, "2001:db8::1"),
        ("", {"X-Forwarded-For": "1.2.3.4"}, ""),
    ],
)
def test_only_trusted_proxies_name_the_client(
    peer: str, headers: dict[str, str], address: str
) -> None:
    assert client_address(peer, headers, TRUSTED) == address


def test_no_proxy_is_trusted_by_default() -> None:
    assert client_address("10.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, ()) == "10.0.0.1"


def test_a_client_with_a_whole_ipv6_network_has_one_bucket() -> None:
    assert bucket_of("2001:db8::1") == bucket_of("2001:db8::ffff") == "2001:db8::/64"
    assert bucket_of("2001:db8:0:1::1") != bucket_of("2001:db8::1")
    assert bucket_of("1.2.3.4") != bucket_of("1.2.3.5")


def test_a_wrong_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="300"):
        networks(["10.0.0.300"])
