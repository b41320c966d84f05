"""Names the gateway answers to."""

from __future__ import annotations

import pytest

from shoal_gateway.access.hosts import is_allowed_host, is_allowed_origin


@pytest.mark.parametrize(
    ("host", "allowed", "is_allowed"),
    [
        ("anything", [], True),
        ("api.example.com", ["api.example.com"], True),
        ("API.Example.com.", ["api.example.com"], True),
        ("api.example.com:8800", ["api.example.com"], True),
        ("api.example.com:8800", ["api.example.com:8800"], True),
        ("api.example.com:1", ["api.example.com:8800"], False),
        ("a.example.com", ["*.example.com"], True),
        ("example.com", ["*.example.com"], False),
        ("evilexample.com", ["*.example.com", "example.com"], False),
        ("example.com.evil.org", ["example.com"], False),
        ("[::1]:8800", ["[::1]"], True),
        ("", ["example.com"], False),
    ],
)
def test_hosts(host: str, allowed: list[str], is_allowed: bool) -> None:
    assert is_allowed_host(host, allowed) is is_allowed


def test_origins() -> None:
    assert is_allowed_origin("https://App.example.com", ["https://app.example.com"])
    assert is_allowed_origin("https://any.example", ["*"])
    assert not is_allowed_origin("http://app.example.com", ["https://app.example.com"])
    assert not is_allowed_origin("https://app.example.com", [])
    assert not is_allowed_origin("", ["*"])
