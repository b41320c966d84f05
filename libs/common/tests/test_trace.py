"""Spans travel from one service to the next."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from shoal_common import trace


def test_a_span_continues_on_the_other_side() -> None:
    exporter = InMemorySpanExporter()
    provider = trace.setup("router", exporter)
    with trace.span("Plan", stage=1):
        sent = trace.metadata()
        here = trace.trace_id()
    with trace.remote_parent([("x-other", b"\x00"), *sent]), trace.span("Generate"):
        assert trace.trace_id() == here
    provider.force_flush()
    plan, generate = exporter.get_finished_spans()
    assert [plan.name, generate.name] == ["Plan", "Generate"]
    assert generate.parent is not None
    assert plan.context is not None
    assert generate.parent.span_id == plan.context.span_id
    assert dict(plan.attributes or {}) == {"stage": 1}


def test_a_span_without_a_block_is_a_child_and_nobody_s_parent() -> None:
    exporter = InMemorySpanExporter()
    provider = trace.setup("router", exporter)
    with trace.span("Plan"):
        begun = trace.begin("ask", model="m")
        with trace.span("Generate"):
            pass
    trace.fail(begun, ValueError("broken"))
    begun.end()
    provider.force_flush()
    generate, plan, ask = exporter.get_finished_spans()
    assert [generate.name, plan.name, ask.name] == ["Generate", "Plan", "ask"]
    for child in (generate, ask):
        assert child.parent is not None
        assert plan.context is not None
        assert child.parent.span_id == plan.context.span_id
    assert ask.status.status_code is StatusCode.ERROR


def test_metadata_is_lower_case_as_grpc_wants_it() -> None:
    trace.setup("router")
    with trace.span("Plan"):
        assert [key for key, _ in trace.metadata()] == ["traceparent"]


def test_nothing_travels_outside_a_span() -> None:
    assert trace.metadata() == ()
    assert trace.trace_id() == ""


@pytest.mark.parametrize("value", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-x-01"])
def test_a_broken_parent_starts_a_new_trace(value: str) -> None:
    trace.setup("router")
    with trace.remote_parent([("traceparent", value)]), trace.span("Plan"):
        assert len(trace.trace_id()) == 32
        assert set(trace.trace_id()) != {"0"}


def test_an_error_marks_its_span() -> None:
    exporter = InMemorySpanExporter()
    provider = trace.setup("router", exporter)
    with pytest.raises(ValueError, match="broken"), trace.span("Plan"):
        raise ValueError("broken")
    provider.force_flush()
    assert exporter.get_finished_spans()[-1].status.status_code is StatusCode.ERROR
