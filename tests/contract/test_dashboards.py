"""Grafana's dashboards ask for what the services count, by the labels that they count it with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal_entropy_drafter import metrics as drafter_metrics
from shoal_gateway import metrics as gateway_metrics
from shoal_gateway.cascade import metrics as cascade_metrics

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
PANEL_COLUMNS = 24
_METRIC = re.compile(r"\b(shoal_[a-z0-9_]+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_VARIABLE = re.compile(r"\$\{?(\w+)")
_OF_GRAFANA = frozenset({"__range", "__rate_interval", "__interval"})


@cache
def counted() -> Mapping[str, frozenset[str]]:
    """Every series of gateway and entropy-drafter, with its labels."""
    registry = CollectorRegistry()
    gateway_metrics.Metrics(registry)
    cascade_metrics.PrometheusRecorder(registry)
    drafter_metrics.PrometheusRecorder(registry)
    found: dict[str, frozenset[str]] = {}
    for name, collector in registry._names_to_collectors.items():
        labels = frozenset(getattr(collector, "_labelnames", ()))
        found[name] = labels | {"le"} if name.endswith("_bucket") else labels
    return found


def read(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title of the panel, and what it asks for."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def problems(expression: str) -> list[str]:
    """What of an expression nobody counts."""
    named = list(_METRIC.finditer(expression))
    if not named:
        return ["it names no metric of ours"]
    found = [f"no metric {match[1]}" for match in named if match[1] not in counted()]
    if found:
        return found
    for match in named:
        wanted = set(_MATCHER.findall(match[2] or ""))
        found += [f"{match[1]} has no label {label}" for label in wanted - counted()[match[1]]]
    known = frozenset().union(*(counted()[match[1]] for match in named))
    for grouping in _GROUPING.findall(expression):
        wanted = {label.strip() for label in grouping.split(",")}
        found += [f"nothing to group by {label}" for label in wanted - known]
    return found


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_expression_asks_for_what_is_counted(path: Path) -> None:
    wrong = [(title, found) for title, expr in expressions(read(path)) if (found := problems(expr))]
    assert not wrong


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_their_own_place_and_the_data_source_of_the_variable(path: Path) -> None:
    dashboard = read(path)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < PANEL_COLUMNS, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        for asking in (*panel.get("targets", ()), *([panel] if panel["type"] != "row" else [])):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_is_declared(path: Path) -> None:
    dashboard = read(path)
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    for title, expression in expressions(dashboard):
        assert set(_VARIABLE.findall(expression)) <= declared | _OF_GRAFANA, title


def test_the_cascade_has_a_dashboard() -> None:
    assert "cascade" in {path.stem for path in DASHBOARDS}


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("up", "names no metric"),
        ("rate(shoal_gateway_cascade_answrs_total[5m])", "no metric"),
        ('shoal_gateway_cascade_answers_total{who="drafter"}', "no label who"),
        ("sum by (who) (shoal_gateway_cascade_answers_total)", "group by who"),
        ("sum by (le) (shoal_gateway_cascade_head_start_seconds_count)", "group by le"),
    ],
)
def test_a_wrong_expression_is_found(expression: str, problem: str) -> None:
    assert problem in " ".join(problems(expression))
