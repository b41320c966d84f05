"""What `shoal up` shows: coloured prefixed log lines, progress, and the panel at the end.

Progress is bars on a terminal; anywhere else it is a line at every quarter of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

READY_TITLE = "Shoal is ready"
"""What the panel is headed with: the last that a start says."""

_PROGRESS_STEP = 25
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan")


@contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Something to call after each of `total` steps: a bar on standard error, if a person looks."""
    console = Console(stderr=True, highlight=False)
    columns = ("{task.description}", BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda: progress.advance(bar)


class Terminal:
    """Bars live from entering until the panel is shown; lines may come at any time and scroll above
    them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colours: dict[str, str] = {}
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def line(self, name: str, text: str) -> None:
        """Print one line of a process, with the process's name in its colour before it."""
        index = len(self._colours) % len(_COLOURS)
        colour = self._colours.setdefault(name, _COLOURS[index])
        prefix = Text(f"{name:>12} │ ", style=colour)
        self._console.print(prefix + Text.from_ansi(text), soft_wrap=True)

    def advance(self, what: str, done: int, total: int) -> None:
        """Move the bar called `what`, which appears with its first use."""
        if not self._console.is_terminal:
            self._tell(what, 100 * done // max(total, 1))
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=None)
        self._progress.update(self._tasks[what], completed=done, total=max(total, 1))

    def _tell(self, what: str, percent: int) -> None:
        step = percent // _PROGRESS_STEP
        if step > self._told.get(what, 0):
            self._told[what] = step
            so_far = step * _PROGRESS_STEP
            self.line("shoal", f"{what}: {'done' if so_far >= 100 else f'{so_far} %'}")

    def panel(self, url: str, key_file: Path, models: Sequence[str], cascade: str = "") -> None:
        """Say where the fleet is and how to talk to it; the bars stay above as they are.

        cascade: how the models answer together, in a line; "" where each answers for itself.
        """
        self._progress.stop()
        curl = (
            f"curl {url}/v1/chat/completions \\\n"
            f'  -H "Authorization: Bearer $(cat {key_file})" \\\n'
            "  -H 'Content-Type: application/json' \\\n"
            f'  -d \'{{"model": "{models[0]}", "messages": '
            '[{"role": "user", "content": "What is the capital of France?"}]}\''
        )
        head = f"URL     {url}/v1\nkey     {key_file}\nmodels  {', '.join(models)}"
        head += f"\ncascade {cascade}" if cascade else ""
        tail = "talk: shoal chat    look: shoal status    stop: Ctrl-C or shoal down"
        panel = Panel(Text(f"{head}\n\n{tail}"), title=READY_TITLE, border_style="green")
        self._console.print(panel)
        # Outside the panel, so that it can be copied.
        self._console.print(Text(curl), soft_wrap=True)
