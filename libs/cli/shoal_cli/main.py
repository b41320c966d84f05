"""The `shoal` command: options in, the right module called, errors as one line.

Exit status: 0 fine, 1 failed, 2 asked the wrong way, 130 given up with Ctrl-C.

Modules that load aiohttp or gRPC are imported by the command that needs them, so that `--help`
answers at once.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from shoal_cli import calibrate as calibration
from shoal_cli import models as model_commands
from shoal_cli import settings as cli_settings

if TYPE_CHECKING:
    from rich.console import Console

    from shoal_cli.bench import BenchOptions, Measured
    from shoal_cli.client import GatewayClient
    from shoal_cli.fleet import UpOptions

T = TypeVar("T")

app = typer.Typer(
    name="shoal",
    help="Serve large language models from pooled machines. Without a command: shoal up.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(model_commands.app, name="models")

Port = Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="The gateway's port.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        "-d",
        help="Keys, models and state. Default: $SHOAL_DATA_DIR or ~/.local/share/shoal.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", exists=True, dir_okay=False, help="A config.toml for the services."),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model", "-m", help="A local Hugging Face folder or GGUF file; may be given again."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Workers, each with a whole copy of every model. Default: 1."
    ),
]
Split = Annotated[
    bool, typer.Option("--split", help="Divide the layers evenly among the workers (2 or more).")
]
Shards = Annotated[
    str | None,
    typer.Option("--shards", help="First and last layer of each worker, as in 0-3,4-5."),
]
Auto = Annotated[
    bool, typer.Option("--auto", help="Leave it to the router which workers hold which layers.")
]
Drafter = Annotated[
    str | None,
    typer.Option(
        "--drafter",
        help="The model that drafts for the cascade: the name of a model served, or another as for "
        "--model. Default: the demo pair, where no --model is given.",
    ),
]
NoDrafter = Annotated[
    bool,
    typer.Option("--no-drafter", help="No cascade, no kept answers, no embeddings of our own."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return when the fleet is ready.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="-v info, -vv debug.")]


def _checked_url(url: str | None) -> str | None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise typer.BadParameter("it must start with http:// or https://")
    return url


Url = Annotated[
    str | None,
    typer.Option("--url", callback=_checked_url, help="The gateway. Default: the local fleet."),
]
Privacy = Literal["local", "pool", "lan", "public"]
ModelName = Annotated[
    str | None, typer.Option("--model-name", help="Default: the first model served.")
]


def main() -> None:
    """Entry point of the console script."""
    from shoal_common.errors import ShoalError

    try:
        app()
    except ShoalError as err:
        _complain(str(err))
        sys.exit(getattr(err, "exit_status", 1))
    except OSError as err:  # A full disk, a file of someone else: the system's words say it best.
        where = f": {err.filename}" if err.filename else ""
        _complain(f"{err.strerror or err}{where}")
        sys.exit(1)


def _complain(text: str) -> None:
    """One line on standard error, red on a terminal; `detach` knows it by its first word."""
    from shoal_cli.detach import ERROR_MARK

    _console(stderr=True).print(f"{ERROR_MARK}{text}", style="red", markup=False, soft_wrap=True)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _default(
    context: typer.Context,
    is_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        up()


@app.command()
def up(
    port: Port = cli_settings.DEFAULT_PORT,
    data_dir: DataDir = None,
    config: Config = None,
    model: Models = None,
    workers: Workers = None,
    split: Split = False,
    shards: Shards = None,
    auto: Auto = False,
    drafter: Drafter = None,
    no_drafter: NoDrafter = False,
    detach: Detach = False,
    verbose: Verbose = 0,
) -> None:
    """Start a fleet on this machine and serve until Ctrl-C."""
    from shoal_cli import detach as background
    from shoal_cli import fleet, local_model, pids

    settings = cli_settings.load(data_dir)
    set_already = cli_settings.ServiceOptions(settings.environment, config, settings.data_dir)
    is_own_drafter = set_already.named("entropy_drafter", "drafter_provider") is not None
    models, drafts = local_model.pick_models(
        model or [], drafter, wants_cascade=not (no_drafter or is_own_drafter)
    )
    ranges = fleet.parse_shards(shards) if shards is not None else ()
    options = fleet.UpOptions(
        data_dir=settings.data_dir,
        port=port,
        models=models,
        worker_count=workers or len(ranges) or (2 if split else 1),
        is_split=split,
        shards=ranges,
        is_auto=auto,
        verbosity=verbose,
        config=config.absolute() if config else None,
        core_count=cli_settings.core_count(),
        drafter=drafts,
        has_drafter=not no_drafter,
    )
    fleet.check(options)
    pids.check_free(options.data_dir, fleet.HOST, port)
    if not detach:
        from shoal_cli import up as foreground
        from shoal_cli.terminal import Terminal

        with Terminal(_console()) as terminal:
            asyncio.run(foreground.run(options, settings, terminal))
        return
    state = background.start(
        options, _argv(options), settings, lambda line: typer.echo(line, err=True)
    )
    typer.echo(f"ready   {state['url']}/v1\nkey     {state['key_file']}")
    typer.echo(f"models  {', '.join(state['models'])}")
    if state["cascade"]:
        typer.echo(f"cascade {state['cascade']}")
    typer.echo("talk: shoal chat    look: shoal status    stop: shoal down")


app.command("run", hidden=True)(up)


def _argv(options: "UpOptions") -> list[str]:
    """The command line that brings these very options up in the foreground."""
    argv = ["up", "--port", str(options.port), "--data-dir", str(options.data_dir)]
    argv += ["--workers", str(options.worker_count)]
    for folder in options.models:
        argv += ["--model", str(folder.path)]
    if options.is_split:
        argv.append("--split")
    if options.is_auto:
        argv.append("--auto")
    if options.shards:
        argv += ["--shards", ",".join(f"{start}-{stop - 1}" for start, stop in options.shards)]
    if options.drafter:
        argv += ["--drafter", options.drafter]
    if not options.has_drafter:
        argv.append("--no-drafter")
    if options.config:
        argv += ["--config", str(options.config)]
    return argv + ["-v"] * options.verbosity


@app.command()
def down(data_dir: DataDir = None) -> None:
    """Stop the fleet of a data folder."""
    from shoal_cli import detach as background

    pid = background.stop(cli_settings.load(data_dir).data_dir)
    typer.echo(f"stopped (process {pid})")


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between looks.")
    ] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable; with --watch a line for each look.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Show processes, workers, layers held, links, pipelines, models and the queue."""
    from shoal_cli import status as view

    folder = cli_settings.load(data_dir).data_dir

    async def show() -> None:
        if as_json:
            _write_json((await view.look(folder)).as_json(), is_line=watch)
        elif not watch:
            _console().print(view.rendered(await view.look(folder)))
        else:
            await view.watch(lambda: view.look(folder), _console(), lambda: asyncio.sleep(interval))
        while as_json and watch:
            await asyncio.sleep(interval)
            _write_json((await view.look(folder)).as_json(), is_line=True)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        if not watch:
            raise


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A model of the fleet.")],
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=0)] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=0)] = 0,
    privacy: Annotated[
        Privacy | None, typer.Option("--privacy", help="How far the prompt may travel.")
    ] = None,
    boomerang: Annotated[
        bool, typer.Option("--boomerang", help="First and last stage on this machine.")
    ] = False,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose request; its tier counts.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Explain which machines a request would go to now, and why others lost."""
    from shoal_cli import peers, pids
    from shoal_cli import plan as view
    from shoal_cli.errors import NoPlan, NotRunning
    from shoal_common.host import host_id

    folder = cli_settings.load(data_dir).data_dir
    if pids.read_owner(folder) is None:
        raise NotRunning(folder)
    asked = view.Asked(
        model, prompt_tokens, max_tokens, privacy or "", boomerang, tenant, host_id()
    )
    told = asyncio.run(peers.explain_plan(*peers.router_of(folder), asked.opening()))
    if as_json:
        _write_json(view.as_json(model, told))
    else:
        for each in view.rendered(model, told):
            _console().print(each)
    if told.problem:
        raise NoPlan(model, told.problem)


@model_commands.app.callback(invoke_without_command=True)
def models(context: typer.Context, url: Url = None, data_dir: DataDir = None) -> None:
    """List the models that the gateway serves; get, pin and remove those that are stored."""
    if context.invoked_subcommand is not None:
        return

    async def ask() -> list[str]:
        async with _client(url, data_dir) as client:
            return await client.models()

    for name in asyncio.run(ask()):
        typer.echo(name)


@app.command()
def chat(
    model_name: ModelName = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 2048,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0)] = 0.7,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Talk to a model; /exit or Ctrl-D ends it."""
    from shoal_cli.chat import Chat, converse
    from shoal_cli.client import pick_model

    client = _client(url, data_dir)
    is_person = sys.stdin.isatty()

    async def connected(work: Coroutine[Any, Any, T]) -> T:
        # A connection for each turn: one kept open might be closed while the person thinks.
        async with client:
            return await work

    with asyncio.Runner() as runner:
        picked = pick_model(runner.run(connected(client.models())), model_name)
        if is_person:
            typer.echo(f"{picked} (Ctrl-C stops a reply; /exit or Ctrl-D ends)")
        failures = converse(
            Chat(client, picked, system, max_tokens, temperature),
            lambda: input("> " if is_person else ""),
            _write,
            _complain,
            lambda turn: runner.run(connected(turn)),
        )
    if is_person:
        typer.echo("")
    elif failures:
        raise typer.Exit(1)


@app.command()
def bench(
    model_name: ModelName = None,
    prompt: Annotated[str, typer.Option("--prompt")] = "Once upon a time",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 128,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Per caller.")] = 1,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Callers.")] = 1,
    stream: Annotated[bool, typer.Option("--stream/--no-stream")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Measure tokens per second, time to first token and gaps between tokens."""
    from shoal_cli import bench as benchmark
    from shoal_cli.client import pick_model

    async def measure() -> "tuple[BenchOptions, list[Measured]]":
        async with _client(url, data_dir) as client:
            picked = pick_model(await client.models(), model_name)
            options = benchmark.BenchOptions(
                picked, prompt, max_tokens, iterations, concurrency, stream
            )
            with _counter("requests", options.request_count) as step:
                return options, await benchmark.run(client, options, step)

    options, measured = asyncio.run(measure())
    summary = benchmark.summarise(measured)
    if as_json:
        typer.echo(json.dumps({"model": options.model, **asdict(summary)}))
    else:
        _console().print(benchmark.table(options, summary))


app.command("calibrate")(calibration.calibrate)


@app.command("test-split")
def compare_split(
    model: Annotated[Path | None, typer.Option("--model", "-m")] = None,
    stages: Annotated[int, typer.Option("--stages", min=2)] = 2,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 32,
) -> None:
    """Compare the tokens of a model split over stages with the unsplit model's."""
    from shoal_cli import local_model
    from shoal_cli import split_check as check

    options = check.SplitOptions(model or local_model.shipped_model(), stages, max_tokens)
    with _counter("runs", 2 * len(options.prompts)) as step:
        results = check.compare(options, step)
    for result in results:
        where = result.first_difference
        verdict = "PASS" if where is None else f"FAIL at token {where}"
        typer.echo(f"{verdict}  {result.prompt}")
    if not all(result.is_equal for result in results):
        raise typer.Exit(1)
    typer.echo(f"PASS: {stages} stages make the same {max_tokens} tokens as the unsplit model")


@app.command()
def doctor(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=1, max=65535, help="Default: the running fleet's, else 8800."
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Look for what would keep a fleet from running here."""
    from shoal_cli import doctor as health
    from shoal_cli import pids

    settings = cli_settings.load(data_dir)
    owner = pids.read_owner(settings.data_dir)
    port = port or (owner and owner.port) or cli_settings.DEFAULT_PORT
    findings = health.examine(health.gather_facts(settings, port))
    for finding in findings:
        mark = "ok  " if finding.is_well else ("FAIL" if finding.is_fatal else "note")
        typer.echo(f"{mark}  {finding.what}: {finding.detail}")
        if not finding.is_well:
            typer.echo(f"      -> {finding.remedy}")
    if any(finding.is_fatal and not finding.is_well for finding in findings):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"shoal {installed('shoal')}")


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _client(url: str | None, data_dir: Path | None) -> "GatewayClient":
    from shoal_cli.client import client_of

    return client_of(url, cli_settings.load(data_dir))


def _counter(what: str, total: int) -> "AbstractContextManager[Callable[[], None]]":
    from shoal_cli.terminal import counter

    return counter(what, total)


def _write(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _write_json(value: dict[str, Any], *, is_line: bool = False) -> None:
    _write(json.dumps(value, indent=None if is_line else 2) + "\n")
