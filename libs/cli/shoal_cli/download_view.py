"""Downloads and stored models as a person sees them.

A bar on a terminal; anywhere else a line at every tenth of the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from shoal.shard_store.v1 import shard_store_pb2 as pb

_TELL_STEP_PERCENT = 10


def size_text(size_bytes: float) -> str:
    """Bytes in the unit that reads best: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def eta_text(download: pb.Download) -> str:
    """Time left at the present speed: `3:07`, or `-:--` while it is unknown."""
    if not download.bytes_per_s:
        return "-:--"
    left_s = (download.bytes_total - download.bytes_done) // download.bytes_per_s
    hours, minutes = divmod(left_s // 60, 60)
    return f"{hours}:{minutes:02}:{left_s % 60:02}" if hours else f"{minutes}:{left_s % 60:02}"


def sources_text(download: pb.Download) -> str:
    """Who sends now, each once."""
    names = dict.fromkeys(shard.source for shard in download.shards if shard.source)
    return ", ".join(names) or "-"


class DownloadView:
    """One download while the block runs."""

    def __init__(self, label: str, console: Console | None = None) -> None:
        self._label = label
        self._console = console or Console(stderr=True, highlight=False)
        self._told_percent = -1
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task(escape(label), total=None, figures="asking")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, download: pb.Download) -> None:
        """Say how far it is."""
        if self._console.is_terminal:
            self._progress.update(
                self._bar,
                completed=download.bytes_done,
                total=download.bytes_total or None,
                figures=escape(_figures(download)),
            )
        elif download.state == pb.DOWNLOAD_STATE_RUNNING:
            self._tell(download)

    def _tell(self, download: pb.Download) -> None:
        percent = 100 * download.bytes_done // max(download.bytes_total, 1)
        step = percent - percent % _TELL_STEP_PERCENT
        if step > self._told_percent:
            self._told_percent = step
            self._console.print(escape(f"{self._label}: {percent} %, {_figures(download)}"))

    def finish(self, download: pb.Download) -> None:
        """The last word."""
        self._progress.stop()
        size = size_text(download.bytes_total)
        rest = "" if download.revision else "; other layers of it are still nowhere in the fleet"
        self._console.print(escape(f"{self._label} is here, {size}{rest}"))


def _figures(download: pb.Download) -> str:
    if download.state in (pb.DOWNLOAD_STATE_WAITING, pb.DOWNLOAD_STATE_PLANNING):
        return "reading what there is"
    done, total = size_text(download.bytes_done), size_text(download.bytes_total)
    speed = f"{size_text(download.bytes_per_s)}/s"
    retries = sum(shard.retry_count for shard in download.shards)
    tail = f", {retries} retries" if retries else ""
    return f"{done} of {total}, {speed}, {eta_text(download)} left, {sources_text(download)}{tail}"


def stored_table(models: Iterable[pb.StoredModel]) -> Table:
    """One row per model on the disk."""
    table = Table("model", "layers here", "of", "here", "whole", "source", "note", title="Stored")
    for model in models:
        spans = [f"{span.layer_start}:{span.layer_stop}" for span in model.layers_held]
        ends = [("embed", model.holds_embed), ("head", model.holds_head)]
        held = " ".join([*spans, *(name for name, is_held in ends if is_held)]) or "-"
        state = "pinned" if model.is_pinned else ""
        if model.is_draft:
            state = f"{state} some layers are nowhere yet".strip()
        table.add_row(
            escape(model.model),
            held,
            str(model.layer_count),
            size_text(model.held_bytes),
            size_text(model.size_bytes),
            escape(model.source) or "this machine",
            state,
        )
    return table


def downloads_table(downloads: Iterable[pb.Download]) -> Table:
    """One row per download, one per shard under way below it."""
    table = Table("download", "state", "done", "speed", "left", "from", title="Downloads")
    for download in downloads:
        state = pb.DownloadState.Name(download.state).removeprefix("DOWNLOAD_STATE_").lower()
        done, total = size_text(download.bytes_done), size_text(download.bytes_total)
        is_running = download.state == pb.DOWNLOAD_STATE_RUNNING
        table.add_row(
            escape(download.model),
            escape(f"{state} {download.detail}".strip()),
            f"{done} of {total}",
            f"{size_text(download.bytes_per_s)}/s" if is_running else "",
            eta_text(download) if is_running else "",
            escape(sources_text(download)) if is_running else escape(download.repo),
        )
        for shard in download.shards:
            part = f"{size_text(shard.bytes_done)} of {size_text(shard.bytes_total)}"
            speed = f"{size_text(shard.bytes_per_s)}/s"
            table.add_row(f"  {escape(shard.name)}", "", part, speed, "", escape(shard.source))
    return table


def pruned_table(groups: Iterable[pb.PrunedGroup]) -> Table:
    """One row per part that went or stayed."""
    table = Table("model", "part", "size", "elsewhere", "", title="Parts")
    for group in groups:
        table.add_row(
            escape(group.model),
            group.group,
            size_text(group.size_bytes),
            str(group.replica_count),
            f"stays: {group.kept_because}" if group.kept_because else "goes",
        )
    return table
