"""Tables of a fleet for people, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from shoal_cli.fleet_rows import (
    EngineRow,
    FleetRows,
    LinkRow,
    ModelRow,
    PipelineRow,
    QueueRow,
    WorkerRow,
)

_GIB = 1 << 30
_MIB = 1 << 20
_ENGINE_COLOURS = {"ready": "green", "failed": "red"}
# Rows of one table; a fleet of a thousand fits no screen.
_ROWS_MAX = 40


def tables(rows: FleetRows) -> Iterator[Table]:
    """Those that have anything to show."""
    yield _worker_table(rows.workers)
    if rows.engines:
        yield _engine_table(rows.engines)
    if rows.links:
        yield _link_table(rows.links)
    if rows.pipelines:
        yield _pipeline_table(rows.pipelines)
    yield _model_table(rows.models)
    yield _queue_table(rows.queue, rows.waiting_max)


def rate(tokens_per_s: float) -> str:
    """Tokens per second to three digits, "-" while nothing is known."""
    if not tokens_per_s:
        return "-"
    return f"{tokens_per_s:.3g}" if tokens_per_s < 1000 else f"{tokens_per_s:.0f}"


def _worker_table(workers: tuple[WorkerRow, ...]) -> Table:
    table = Table("worker", "region", "host", "state", "device", "GiB free", title="Workers")
    for each in workers[:_ROWS_MAX]:
        free, total = each.memory_free_bytes / _GIB, each.memory_total_bytes / _GIB
        table.add_row(
            escape(each.node_id),
            escape(each.region) or "-",
            escape(each.host_id[:8]) or "-",
            _life(each),
            escape(each.device) or "-",
            f"{free:.1f} of {total:.1f}",
        )
    return _cut(table, len(workers))


def _life(worker: WorkerRow) -> str:
    if worker.is_leaving:
        return "[yellow]leaving[/]"
    if not worker.is_alive:
        return f"[red]silent {worker.silent_ms / 1000:.1f} s[/]"
    return "[green]alive[/], locked" if worker.is_locked else "[green]alive[/]"


def _engine_table(engines: tuple[EngineRow, ...]) -> Table:
    table = _named("worker", "model", "layers", "state", "tok/s", "running", "KV room")
    table.title = "Layers held"
    for each in engines[:_ROWS_MAX]:
        colour = _ENGINE_COLOURS.get(each.state, "yellow")
        state = f"[{colour}]{each.state}[/]"
        if each.state in ("fetching", "loading"):
            state += f" {each.progress_percent}%"
        running = f"{each.running_count}"
        if each.running_max:
            running += f" of {each.running_max}"
        table.add_row(
            escape(each.node_id),
            escape(each.model),
            each.layers or "-",
            f"{state} {escape(each.detail)}".strip(),
            rate(each.tokens_per_s),
            running + (f" +{each.waiting_count}" if each.waiting_count else ""),
            f"{each.kv_tokens_free} of {each.kv_tokens_total}" if each.kv_tokens_total else "-",
        )
    return _cut(table, len(engines))


def _link_table(links: tuple[LinkRow, ...]) -> Table:
    table = Table("from", "to", "round trip", "MiB/s", title="Links")
    for each in links[:_ROWS_MAX]:
        table.add_row(
            escape(each.source),
            escape(each.target),
            duration(each.rtt_us),
            f"{each.bytes_per_s / _MIB:.0f}" if each.bytes_per_s else "-",
        )
    return _cut(table, len(links))


def _pipeline_table(pipelines: tuple[PipelineRow, ...]) -> Table:
    table = _named("pipeline", "model", "stages", "step", "tok/s", "share", "running")
    table.title = "Pipelines"
    for each in pipelines[:_ROWS_MAX]:
        table.add_row(
            each.pipeline_id[:8],
            escape(each.model),
            escape("\n".join(each.stages)),
            duration(each.predicted_step_us),
            rate(each.tokens_per_s),
            f"{each.share:.0%}" if each.share else "-",
            str(each.in_flight_count),
        )
    return _cut(table, len(pipelines))


def _model_table(models: tuple[ModelRow, ...]) -> Table:
    """Whether every layer is held, by how many pipelines, and who asks for it."""
    table = _named("model", "state", "layers", "context", "pipelines", "running", "waiting")
    table.title = "Models"
    for each in models[:_ROWS_MAX]:
        table.add_row(
            escape(each.model),
            _readiness(each),
            str(each.layer_count),
            str(each.context_length),
            str(each.pipeline_count),
            str(each.in_flight_count),
            str(each.waiting_count),
        )
    return _cut(table, len(models))


def _named(*names: str) -> Table:
    """Models whose names begin alike stay apart in a narrow window: names are folded, not cut."""
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold" if name == "model" else "ellipsis")
    return table


def _readiness(model: ModelRow) -> str:
    match model.state:
        case "ready":
            return "[green]ready[/]"
        case "loading":
            return f"[yellow]loading, {model.loading_percent}%[/]"
        case "loadable":
            return "loaded on demand"
    return f"[red]nobody holds {', '.join(model.missing) or 'it'}[/]"


def _queue_table(queue: tuple[QueueRow, ...], waiting_max: int) -> Table:
    waiting_count = sum(each.waiting_count for each in queue)
    table = Table(*(each.tier for each in queue))
    table.title = f"Queue: {waiting_count} of {waiting_max} places"
    table.add_row(*(str(each.waiting_count) for each in queue))
    return table


def duration(microseconds: float) -> str:
    """In duration or seconds, to three digits; "-" while nothing is known."""
    if microseconds >= 999_500:
        return f"{microseconds / 1e6:.3g} s"
    return f"{microseconds / 1000:.3g} ms" if microseconds else "-"


def _cut(table: Table, count: int) -> Table:
    if count > _ROWS_MAX:
        table.caption = f"and {count - _ROWS_MAX} more: --json has them all"
    return table
