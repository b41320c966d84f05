"""Spans and their way through the fleet as W3C `traceparent` in gRPC metadata.

Owns the set-up of OpenTelemetry in a process. Does not know where spans are sent: the exporter is
given by `app.py`; without one, ids still travel and stand in every log line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()
_HEADERS = frozenset(_propagator.fields)


def setup(service: str, exporter: SpanExporter | None = None) -> TracerProvider:
    """Make spans real in this process and send finished ones to `exporter`, in batches.

    OpenTelemetry keeps one provider per process: a second call adds its exporter to the first.
    The caller ends with `provider.shutdown()`, which flushes.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        resource = Resource.create({SERVICE_NAME: f"shoal-{service.replace('_', '-')}"})
        provider = TracerProvider(resource=resource)
        trace.set_tracer_provider(provider)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[trace.Span]:
    """A span around what happens inside, child of the current one; an error marks it."""
    tracer = trace.get_tracer("shoal")
    with tracer.start_as_current_span(name, attributes=attributes) as current:
        yield current


def begin(name: str, **attributes: str | int | float | bool) -> trace.Span:
    """A span that is current nowhere, child of the current one, for what no block encloses.

    The caller ends it, with `fail` before where it failed.
    """
    return trace.get_tracer("shoal").start_span(name, attributes=attributes)


def fail(failed: trace.Span, error: BaseException) -> None:
    """Mark a span that `begin` made."""
    failed.record_exception(error)
    failed.set_status(trace.StatusCode.ERROR)


def metadata() -> tuple[tuple[str, str], ...]:
    """The current span as gRPC metadata; empty outside any span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def remote_parent(pairs: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
    """Make spans inside children of the caller's span, as its metadata names it."""
    carrier = {k.lower(): v for k, v in pairs if k.lower() in _HEADERS and isinstance(v, str)}
    token = context.attach(_propagator.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


def trace_id() -> str:
    """32 hex digits of the current trace; "" outside any."""
    current = trace.get_current_span().get_span_context()
    return trace.format_trace_id(current.trace_id) if current.is_valid else ""
