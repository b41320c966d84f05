"""Which names may reach a URL or a path. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from shoal_shard_store.errors import InvalidRepo

REPO_ID_LENGTH_MAX = 96

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")
FILE_NAME_LENGTH_MAX = 240


def check_repo_id(repo_id: str) -> None:
    """Raise InvalidRepo unless it is `owner/repo` of at most 96 safe characters."""
    parts = repo_id.split("/")
    if (
        len(repo_id) > REPO_ID_LENGTH_MAX
        or len(parts) != 2
        or not all(_PART.fullmatch(part) for part in parts)
        or any(mark in repo_id for mark in ("..", "--"))
        or repo_id.endswith(".git")
    ):
        raise InvalidRepo(
            repo_id,
            f"a repository is named owner/repo, at most {REPO_ID_LENGTH_MAX} letters, digits, "
            "'.', '_' and '-'",
        )


def is_safe_file_name(name: str) -> bool:
    """Whether a file's name, with folders, stays inside its repository and its URL."""
    return (
        len(name) <= FILE_NAME_LENGTH_MAX
        and ".." not in name
        and all(_FILE_PART.fullmatch(part) for part in name.split("/"))
    )


def check_file_name(name: str) -> None:
    """Raise InvalidRepo for names with `..`, empty or hidden parts, or what means something in
    URLs."""
    if not is_safe_file_name(name):
        raise InvalidRepo(name, "a file's name has letters, digits, '.', '_', '+', '-' and '/'")


def check_revision(revision: str) -> None:
    """Raise InvalidRepo for what cannot be a branch, tag or commit."""
    if _REVISION.fullmatch(revision) is None or ".." in revision or "//" in revision:
        raise InvalidRepo(revision, "this cannot be a branch, tag or commit")


def check_base_url(url: str, hosts: tuple[str, ...]) -> None:
    """Raise InvalidRepo unless it is a plain http(s) URL of a host that is allowed."""
    try:
        parts = urlsplit(url)
    except ValueError as err:
        raise InvalidRepo(url, "it is no URL") from err
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not is_plain:
        raise InvalidRepo(url.split("?")[0], "a base URL is http(s)://host/path and nothing more")
    if not all("!" <= character <= "~" for character in url):
        raise InvalidRepo(url, "its letters must be escaped as URLs want it")
    if any(part.startswith(".") for part in parts.path.split("/") if part):
        raise InvalidRepo(url, "its path has hidden or relative parts")
    host = parts.hostname or ""
    if not is_below(host, hosts):
        raise InvalidRepo(
            url, f"host {host} is not allowed; add it with SHOAL_SHARD_STORE_URL_HOSTS"
        )


def is_below(host: str, domains: tuple[str, ...]) -> bool:
    """Whether a host is one of the domains, or below one."""
    host = host.lower().rstrip(".")
    return bool(host) and any(
        host == domain.lower() or host.endswith(f".{domain.lower()}") for domain in domains
    )
