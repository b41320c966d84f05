"""What a checkpoint folder may contain.

Owns the rules for folders that strangers wrote: safetensors only, plain files only, no code, sizes
bounded. Reads JSON, never opens a pickle, knows nothing of torch.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal_engine.errors import UntrustedCheckpoint

CONFIG_SIZE_BYTES_MAX = 1 << 20
INDEX_SIZE_BYTES_MAX = 64 << 20
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def check_untrusted(folder: Path) -> None:
    """Refuse a checkpoint folder that is not plain data.

    Refused are symbolic links and special files, pickled weights without safetensors beside them
    (the pickle is never opened), configurations that ask for custom code, and oversized JSON.
    Pickles beside safetensors are ignored. Raises UntrustedCheckpoint naming file and remedy.
    """
    check_config_files(folder)
    entries = sorted(folder.iterdir())
    for entry in entries:
        mode = entry.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise UntrustedCheckpoint(
                entry, "symbolic links are not followed", "copy the file itself (cp -L)"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UntrustedCheckpoint(entry, "not a regular file", "remove it")
    if not any(entry.name in (SINGLE_FILE, INDEX_FILE) for entry in entries):
        pickles = [entry for entry in entries if entry.suffix in _PICKLE_SUFFIXES]
        if pickles:
            raise UntrustedCheckpoint(
                pickles[0], "pickled weights can run code", "convert them to safetensors"
            )
        raise UntrustedCheckpoint(
            folder, f"neither {SINGLE_FILE} nor {INDEX_FILE}", "add the safetensors files"
        )


def check_config_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read `config.json` and, where there is one, `generation_config.json`, and refuse code.

    Returns both as dictionaries, the second one empty when the file is missing. Raises
    UntrustedCheckpoint.
    """
    config = read_json_object(folder / "config.json", CONFIG_SIZE_BYTES_MAX)
    _refuse_custom_code(config, folder / "config.json")
    generation = _optional_object(folder / "generation_config.json")
    tokenizer_path = folder / "tokenizer_config.json"
    _refuse_custom_code(_optional_object(tokenizer_path), tokenizer_path)
    return config, generation


def read_json_object(path: Path, size_bytes_max: int) -> dict[str, Any]:
    """Read a JSON object from a plain file of bounded size. Raises UntrustedCheckpoint."""
    try:
        mode = path.lstat().st_mode
        size_bytes = path.lstat().st_size
        if not stat.S_ISREG(mode):
            raise UntrustedCheckpoint(path, "not a regular file", "copy the file itself (cp -L)")
        if size_bytes > size_bytes_max:
            raise UntrustedCheckpoint(
                path, f"{size_bytes} bytes, at most {size_bytes_max} are read", "shorten it"
            )
        value = json.loads(path.read_bytes())
    except FileNotFoundError as err:
        raise UntrustedCheckpoint(path, "missing", "add it to the folder") from err
    except OSError as err:
        raise UntrustedCheckpoint(path, f"unreadable ({err.strerror})", "check it") from err
    except (ValueError, RecursionError) as err:
        raise UntrustedCheckpoint(path, "not valid JSON", "download it again") from err
    if not isinstance(value, dict):
        raise UntrustedCheckpoint(path, "not a JSON object", "download it again")
    return value


def weight_files(folder: Path) -> dict[str, Path] | Path:
    """Where the tensors are: one file, or a map from tensor name to file.

    Raises UntrustedCheckpoint when the index names anything but files directly in `folder`.
    """
    single = folder / SINGLE_FILE
    index_path = folder / INDEX_FILE
    if not index_path.exists():
        return single
    weight_map = read_json_object(index_path, INDEX_SIZE_BYTES_MAX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UntrustedCheckpoint(index_path, "no weight_map", "download it again")
    return {
        name: folder / _plain_name(file_name, index_path) for name, file_name in weight_map.items()
    }


def _plain_name(file_name: object, index_path: Path) -> str:
    if (
        not isinstance(file_name, str)
        or not file_name.endswith(".safetensors")
        or Path(file_name).name != file_name
        or "\0" in file_name
    ):
        raise UntrustedCheckpoint(
            index_path,
            "it names something else than a safetensors file of its own folder",
            "correct weight_map",
        )
    return file_name


def _optional_object(path: Path) -> dict[str, Any]:
    if not path.exists() and not path.is_symlink():
        return {}
    return read_json_object(path, CONFIG_SIZE_BYTES_MAX * 16)


def _refuse_custom_code(config: Mapping[str, Any], path: Path) -> None:
    if "auto_map" in config or "custom_pipelines" in config:
        raise UntrustedCheckpoint(
            path,
            "auto_map asks for code from the checkpoint, which is never run",
            "remove the entry if the architecture is one that is built in",
        )
