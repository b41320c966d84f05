"""`shoal models ...`: what the shard-store holds, and how it gets more. Options in, calls out.

Modules that load gRPC or rich are imported by the command that needs them.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from shoal_cli import settings as cli_settings

if TYPE_CHECKING:
    from shoal_cli.model_store import ModelStore

T = TypeVar("T")

app = typer.Typer(
    help="List the models that the gateway serves; get, pin and remove those that are stored.",
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", "-d", help="The fleet's. Default: $SHOAL_DATA_DIR or the user's."),
]
Store = Annotated[
    str | None, typer.Option("--store", help="A shard-store, host:port. Default: the local one.")
]
Name = Annotated[str, typer.Argument(help="A model's name.")]
Groups = Annotated[
    list[str] | None,
    typer.Option("--part", help="embed, layer.3, head; may be given again. Default: all of it."),
]


def parse_layers(text: str | None) -> tuple[int, int] | None:
    """`0:12` as (0, 12). Raises typer.BadParameter."""
    if text is None:
        return None
    start, separator, stop = text.partition(":")
    if not (separator and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise typer.BadParameter("a range of layers is START:STOP, such as 0:12; STOP is not in it")
    return int(start), int(stop)


Layers = Annotated[
    str | None, typer.Option("--layers", metavar="START:STOP", help="Such as 0:12. Default: all.")
]


@app.command()
def get(
    what: Annotated[
        str,
        typer.Argument(help="owner/repo on the hub, a URL, a GGUF file here, or a model's name."),
    ],
    layers: Layers = None,
    file: Annotated[
        str | None, typer.Option("--file", help="A GGUF file of the repository.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, tag or commit. Default: main.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it here. Default: the repository's.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Only this machine's share of the layers.")
    ] = False,
    store: Store = None,
    data_dir: DataDir = None,
) -> None:
    """Fetch a model, or some layers of it. Ctrl-C stops; the same command goes on from there."""
    from shoal_cli.download_view import DownloadView
    from shoal_cli.model_store import Wanted

    wanted = Wanted.named(what, file or "", revision or "", name or "", parse_layers(layers), share)

    async def fetch(client: "ModelStore") -> None:
        with DownloadView(wanted.label) as view:
            view.finish(await client.acquire(wanted, view.show))

    _run(store, data_dir, fetch)


@app.command("stored")
def list_stored(store: Store = None, data_dir: DataDir = None) -> None:
    """Show what the shard-store holds of each model."""
    from rich.console import Console

    from shoal_cli.download_view import stored_table

    models = _run(store, data_dir, lambda client: client.models())
    Console(highlight=False).print(stored_table(models))


@app.command()
def downloads(store: Store = None, data_dir: DataDir = None) -> None:
    """Show what is being fetched, from where and how fast."""
    from rich.console import Console

    from shoal_cli.download_view import downloads_table

    found = _run(store, data_dir, lambda client: client.downloads())
    Console(highlight=False).print(downloads_table(found))


@app.command()
def cancel(name: Name, store: Store = None, data_dir: DataDir = None) -> None:
    """Stop a download; what arrived is kept."""
    if not _run(store, data_dir, lambda client: client.cancel(name)):
        typer.echo(f"nothing of {name} is being fetched")
        raise typer.Exit(1)
    typer.echo(f"stopped; `shoal models get` goes on with {name}")


@app.command()
def pin(name: Name, part: Groups = None, store: Store = None, data_dir: DataDir = None) -> None:
    """Keep a model, or parts of it, from ever being pruned."""
    _run(store, data_dir, lambda client: client.pin(name, part or []))
    typer.echo(f"pinned {name}")


@app.command()
def unpin(name: Name, part: Groups = None, store: Store = None, data_dir: DataDir = None) -> None:
    """Let a model, or parts of it, be pruned again."""
    _run(store, data_dir, lambda client: client.unpin(name, part or []))
    typer.echo(f"unpinned {name}")


@app.command("rm")
def remove(
    name: Name, layers: Layers = None, store: Store = None, data_dir: DataDir = None
) -> None:
    """Remove a model from the shard-store, or only the bytes of some layers."""
    from shoal_cli.download_view import size_text

    span = parse_layers(layers)
    freed_bytes = _run(store, data_dir, lambda client: client.remove(name, span))
    typer.echo(f"removed {name}{f' {layers}' if layers else ''}, {size_text(freed_bytes)} freed")


@app.command()
def prune(
    name: Annotated[str | None, typer.Argument(help="A model. Default: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: Store = None,
    data_dir: DataDir = None,
) -> None:
    """Remove what enough other shard-stores hold, and say why the rest stays."""
    from rich.console import Console

    from shoal_cli.download_view import pruned_table, size_text

    answer = _run(store, data_dir, lambda client: client.prune(name or "", dry_run))
    Console(highlight=False).print(pruned_table(answer.groups))
    typer.echo(f"{size_text(answer.freed_bytes)} freed")


def _run(
    store: str | None,
    data_dir: Path | None,
    work: "Callable[[ModelStore], Coroutine[Any, Any, T]]",
) -> T:
    """Do something with the shard-store that was named, or the local fleet's."""
    from shoal_cli.model_store import ModelStore

    folder = cli_settings.load(data_dir).data_dir

    async def connected() -> T:
        async with ModelStore.find(folder, store) as client:
            return await work(client)

    return asyncio.run(connected())
