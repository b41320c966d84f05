"""`shoal calibrate`: options in, a calibration out. The work is in `calibration_run`.

Modules that load aiohttp or rich are imported when the command runs.
"""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shoal_cli import settings as cli_settings

if TYPE_CHECKING:
    from shoal_cli.calibration_run import Calibrated, Options

Statistic = Literal["mean", "max", "margin"]
Prompts = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompts",
        "-P",
        help="Labelled prompts, JSON lines; may be given again. Default: the demo benchmark.",
    ),
]
Test = Annotated[
    Path | None,
    typer.Option("--test", help="More of them, to report on. Default: a part of --prompts."),
]
Heavyweight = Annotated[str | None, typer.Option("--heavyweight", help="Default: the cascade's.")]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--parameters",
        metavar="A,B",
        help="Sizes of drafter and heavyweight: 0.8M,5M or their folders.",
    ),
]
Window = Annotated[
    int | None, typer.Option("--window", min=1, max=1024, help="Only this many tokens.")
]
EarlyExit = Annotated[
    int | None,
    typer.Option("--early-exit", min=1, max=1024, help="First tokens that are judged together."),
]
OneStatistic = Annotated[Statistic | None, typer.Option("--statistic", help="Only this one.")]
Grid = Annotated[
    bool, typer.Option("--grid/--no-grid", help="Try windows, early exits and statistics.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer.")]
Concurrency = Annotated[
    int,
    typer.Option("--concurrency", min=1, max=256, help="1 for times that mean something."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Default: calibration in the data folder.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Ask again what is answered in --out already.")
]
Write = Annotated[
    bool, typer.Option("--write/--no-write", help="Put the threshold into the config.toml.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Default: config.toml in the data folder; with --url, none."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Url = Annotated[str | None, typer.Option("--url", help="The gateway. Default: the local fleet.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", "-d", help="The fleet's.")]


def calibrate(
    prompts: Prompts = None,
    test: Test = None,
    heavyweight: Heavyweight = None,
    parameters: Sizes = None,
    window: Window = None,
    early_exit: EarlyExit = None,
    statistic: OneStatistic = None,
    grid: Grid = True,
    max_tokens: MaxTokens = 512,
    concurrency: Concurrency = 1,
    out: Out = None,
    fresh: Fresh = False,
    write: Write = True,
    config: Config = None,
    as_json: Json = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Find the entropy above which a draft is better given up, and what the cascade then costs."""
    from shoal_cli.calibration_run import Options, run
    from shoal_cli.client import client_of
    from shoal_cli.terminal import counter

    settings = cli_settings.load(data_dir)
    # A fleet elsewhere reads another file than this machine's.
    local_config = settings.data_dir / "config.toml" if url is None else None
    options = Options(
        prompts=tuple(prompts or ()),
        test=test,
        heavyweight=heavyweight,
        parameters=parameters,
        window_size=window,
        early_exit_count=early_exit,
        statistic=statistic,
        has_grid=grid,
        max_tokens=max_tokens,
        concurrency=concurrency,
        out=(out or settings.data_dir / "calibration").expanduser(),
        is_fresh=fresh,
        config=(config or local_config) if write else None,
    )
    calibrated = asyncio.run(run(client_of(url, settings), options, counter))
    _show(calibrated, options, as_json)


def _show(calibrated: "Calibrated", options: "Options", as_json: bool) -> None:
    from shoal_cli.calibration_view import rendered

    if as_json:
        typer.echo(json.dumps(calibrated.as_json()))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for each in rendered(calibrated, options):
        console.print(each)
