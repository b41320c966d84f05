"""The lines that docs/troubleshooting.md tells to look for are those that services write."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SERVICES = {
    "router": ROOT / "services" / "router" / "shoal_router",
    "worker": ROOT / "services" / "worker-gpu" / "shoal_worker_gpu",
    "gateway": ROOT / "services" / "gateway" / "shoal_gateway",
}
ROW = re.compile(
    r"^\| `([^`]+)` \| (\w+) \| (debug|info|warning|error) \| (\w+) \| ([^|]+) \|", re.M
)
ROWS = ROW.findall(PAGE.partition("## Symptoms")[0])


def calls(folder: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """(phrase, call, source of the module) for every line that a service may log."""
    for path in folder.rglob("*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log")),
                    args=[ast.Constant(value=str(phrase)), *_],
                ):
                    yield phrase, node, source


LOGGED = {service: list(calls(folder)) for service, folder in SERVICES.items()}


def test_the_page_has_lines() -> None:
    assert len(ROWS) >= 14


@pytest.mark.parametrize(("phrase", "diag", "level", "service", "fields"), ROWS)
def test_a_line_of_the_page_is_written_with_its_fields(
    phrase: str, diag: str, level: str, service: str, fields: str
) -> None:
    sources = "".join(source for found, _, source in LOGGED[service] if found == phrase)
    assert sources, f"{service} never logs {phrase!r}: change docs/troubleshooting.md with it"
    assert f'"diag": "{diag}"' in sources
    for name in re.findall(r"`(\w+)`", fields):
        stem = (
            name.removesuffix("_ms") if name.startswith(("queue_", "compute_", "wire_")) else name
        )
        assert re.search(rf'["{{ (]{stem}["=_]', sources), f"{phrase!r} has no field {name}"


def test_every_line_with_a_diag_field_is_on_the_page() -> None:
    known = {(service, phrase) for phrase, _, _, service, _ in ROWS}
    written = {
        (service, phrase)
        for service, lines in LOGGED.items()
        for phrase, call, _ in lines
        if any("'diag'" in ast.unparse(keyword) for keyword in call.keywords)
    }
    assert written <= known


@pytest.mark.parametrize("phrase", ["pipeline formed", "rebalance begins", "load ordered"])
def test_lines_named_for_what_they_were_called_before_exist(phrase: str) -> None:
    assert any(found == phrase for found, _, _ in LOGGED["router"])
