"""What `up` prints, on a narrow terminal and into a file."""

import io
from pathlib import Path

from rich.console import Console

from shoal_cli.terminal import Terminal


def show(is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal, highlight=False)
    with Terminal(console) as terminal:
        for done in range(0, 101, 10):
            terminal.advance("load big", done, 100)
        terminal.line("worker-1", "ready")
        terminal.panel("http://127.0.0.1:1", Path("/data/" + "deep/" * 20 + "api_key"), ["big"])
        terminal.line("shoal", "after the panel")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_into_a_file_there_are_no_control_codes_and_a_line_a_quarter() -> None:
    text = show(is_terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    told = [line.split("load big: ")[1] for line in text.splitlines() if "load big" in line]
    assert told == ["25 %", "50 %", "75 %", "done"]
    assert "    worker-1 │ ready\n" in text


def test_box_of_the_panel_fits_80_columns() -> None:
    lines = show(is_terminal=False).splitlines()
    assert all(len(line) <= 80 for line in lines if line.startswith(("╭", "│", "╰")))


def test_bars_are_not_drawn_again_after_the_panel() -> None:
    before, after = show(is_terminal=True).split("Shoal is ready")
    assert "load big" in before
    assert "load big" not in after
