"""What servers say, and which names may reach them."""

from __future__ import annotations

import email.utils
import time

import pytest

from shoal_shard_store.errors import InvalidRepo
from shoal_shard_store.sources.names import check_base_url, is_below, is_safe_file_name
from shoal_shard_store.sources.web import RETRY_AFTER_S_MAX, retry_after_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3.0), ("0", 0.0), ("99999999999", RETRY_AFTER_S_MAX),
     ("", 5.0), ("soon", 5.0), ("-3", 5.0)],
)  # fmt: skip
def test_seconds_to_wait(text: str, expected: float) -> None:
    assert retry_after_s({"Retry-After": text}) == expected


def test_a_moment_to_wait_for() -> None:
    def header(ahead_s: float) -> dict[str, str]:
        return {"Retry-After": email.utils.formatdate(time.time() + ahead_s, usegmt=True)}

    assert 0 < retry_after_s(header(60)) <= 60
    assert retry_after_s(header(-60)) == 0
    assert retry_after_s(header(86400)) == RETRY_AFTER_S_MAX


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("hf.co", True),
        ("cdn.HF.co", True),
        ("cdn.hf.co.", True),
        ("evilhf.co", False),
        ("hf.co.evil.example", False),
        ("", False),
        ("169.254.169.254", False),
    ],
)
def test_domains_cover_what_is_below_them(host: str, is_allowed: bool) -> None:
    assert is_below(host, ("hf.co",)) == is_allowed


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "http://host/x?y=1",
        "http://host/x#y",
        "http://user:word@host/x",
        "http://host/../x",
        "http://host/.git",
        "http://elsewhere/x",
        "http://host/a b",
        "http://host/a\r\nHost: other",
        "http://[",
    ],
)
def test_base_urls_are_plain(url: str) -> None:
    with pytest.raises(InvalidRepo):
        check_base_url(url, ("host",))


def test_a_plain_base_url_is_taken() -> None:
    check_base_url("https://host:8443/models/tiny", ("host",))


@pytest.mark.parametrize("name", ["a.safetensors", "q4/model-00001-of-00002.gguf", "A_b+c.json"])
def test_plain_file_names_are_safe(name: str) -> None:
    assert is_safe_file_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "..", "a/../b", "a..b", ".a", "a?b", "a#b", "a%2fb", "a\\b", "ä"],
)
def test_other_file_names_are_not(name: str) -> None:
    assert not is_safe_file_name(name)
