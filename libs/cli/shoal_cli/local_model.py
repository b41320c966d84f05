"""Models on this machine as `--model` names them: a Hugging Face folder, or a GGUF file.

Looks at names and at what says how many layers there are. Whether the weights may be trusted is
for the shard-store to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal_cli.errors import BadOptions, ModelMissing
from shoal_cli.gguf_head import layer_count_of

_GGUF = ".gguf"


@dataclass(frozen=True)
class LocalModel:
    """A folder, served under its name, or a GGUF file, served under its name without the end."""

    name: str
    path: Path
    layer_count: int

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == _GGUF


def read_local_model(path: Path) -> LocalModel:
    """What a path names. Raises ModelMissing, BadOptions.

    A folder without safetensors that holds one GGUF file stands for this file.
    """
    path = path.expanduser()
    if path.suffix == _GGUF and path.is_file():
        return _gguf_model(path)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        files = sorted(path.glob(f"*{_GGUF}"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise BadOptions(f"{path} holds several models: name one of {names} with --model")
        if files:
            return _gguf_model(files[0])
    return _folder_model(path)


def pick_models(
    paths: Sequence[Path], drafter: str | None, wants_cascade: bool
) -> tuple[tuple[LocalModel, ...], str]:
    """The models to serve, and the name of the one that drafts, "" for none.

    paths: as `--model` names them; none for the demo model. drafter: the name of one of them, or
    another path; without it, and with `wants_cascade`, the demo models are a pair. Raises
    ModelMissing, BadOptions.
    """
    models = [read_local_model(path) for path in paths or [shipped_model()]]
    if drafter is None:
        if paths or not wants_cascade:
            return tuple(models), ""
        models.append(read_local_model(shipped_model("drafter")))
        return tuple(models), models[-1].name
    known = next((model for model in models if model.name == drafter), None)
    if known is None:
        known = read_local_model(Path(drafter))
        if known not in models:
            models.append(known)
    return tuple(models), known.name


def shipped_model(name: str = "heavyweight") -> Path:
    """A demo model of the repository this package runs from. Raises BadOptions elsewhere."""
    folder = Path(__file__).resolve().parents[3] / "models" / name
    if not (folder / "config.json").is_file():
        raise BadOptions(
            "no demo model next to this installation: name a local Hugging Face folder or a GGUF "
            "file with --model"
        )
    return folder


def _gguf_model(path: Path) -> LocalModel:
    # Links in the way are resolved, the file's own is left for the shard-store to refuse.
    file = path.parent.resolve() / path.name
    return LocalModel(file.stem, file, layer_count_of(file))


def _folder_model(path: Path) -> LocalModel:
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ModelMissing(path) from err
    except ValueError as err:
        raise BadOptions(f"{path / 'config.json'} is not JSON: {err}") from err
    layer_count = config.get("num_hidden_layers") if isinstance(config, dict) else None
    if not isinstance(layer_count, int) or layer_count < 1:
        raise BadOptions(f"{path / 'config.json'} does not say num_hidden_layers")
    folder = path.resolve()
    if not (folder / "tokenizer.json").is_file():
        raise BadOptions(f"{folder / 'tokenizer.json'} is missing: add the model's tokenizer")
    return LocalModel(folder.name, folder, layer_count)
