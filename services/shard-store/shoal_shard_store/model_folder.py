"""A Hugging Face folder that a stranger wrote, as a list of plain facts.

Owns what such a folder may contain: plain files, safetensors alone, no code, bounded sizes. Opens
no pickle and follows no link. Does not know how tensors are packed into shards.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_shard_store.errors import FolderNotAllowed, SourceChanged, UntrustedFolder
from shoal_shard_store.safetensors_header import StoredTensor, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""What travels beside the tensors; anything else in a folder stays where it is."""
SIDE_FILE_SIZE_BYTES_MAX = 64 << 20
CONFIG_SIZE_BYTES_MAX = 1 << 20
ENTRY_COUNT_MAX = 10_000

CODE_CHECKED = ("config.json", "tokenizer_config.json")
CODE_KEYS = ("auto_map", "custom_pipelines")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DOWNLOAD_AGAIN = "download it again"


@dataclass(frozen=True)
class FileStamp:
    """What tells an unchanged file from a changed one without reading it."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed every check. `tensors` are in no particular order."""

    path: Path
    config: Mapping[str, Any]
    side_files: tuple[str, ...]
    tensors: tuple[StoredTensor, ...]
    stamps: Mapping[str, FileStamp]

    @contextmanager
    def opened(self, file_name: str) -> Iterator[int]:
        """A descriptor of the file as it was when the folder was scanned.

        Raises SourceChanged when it is another file by now, or was written while it was open.
        """
        with _opened(self.path / file_name) as descriptor:
            self._check_stamp(descriptor, file_name)
            yield descriptor
            self._check_stamp(descriptor, file_name)

    def _check_stamp(self, descriptor: int, file_name: str) -> None:
        if _stamp(os.fstat(descriptor)) != self.stamps[file_name]:
            raise SourceChanged(file_name)


def allowed_folder(path: str, roots: tuple[Path, ...]) -> Path:
    """The real path of a folder that may be imported. Raises FolderNotAllowed, UntrustedFolder."""
    names = tuple(str(root) for root in roots)
    if not path or "\0" in path or not Path(path).expanduser().is_absolute():
        raise FolderNotAllowed(path[:200] or "(empty)", names)
    real = Path(os.path.realpath(Path(path).expanduser()))
    if not any(real.is_relative_to(os.path.realpath(root.expanduser())) for root in roots):
        raise FolderNotAllowed(path[:200], names)
    if not real.is_dir():
        raise UntrustedFolder(real.name, "no such folder", "check the path")
    return real


def scan_stamps(folder: Path) -> dict[str, FileStamp]:
    """Names, sizes and times of the files that an import would read; opens none of them.

    Raises UntrustedFolder for links, special files and pickles.
    """
    stamps: dict[str, FileStamp] = {}
    for entry in _entries(folder):
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(state.st_mode):
            raise UntrustedFolder(
                entry.name, "symbolic links are not followed", "copy the file itself (cp -L)"
            )
        if stat.S_ISDIR(state.st_mode):
            continue
        if not stat.S_ISREG(state.st_mode):
            raise UntrustedFolder(entry.name, "not a regular file", "remove it")
        if entry.name.lower().endswith(_PICKLE_SUFFIXES):
            raise UntrustedFolder(
                entry.name, "pickled data can run code", "convert it to safetensors and remove it"
            )
        if entry.name in SIDE_FILES or entry.name.endswith((".safetensors", INDEX_FILE)):
            stamps[entry.name] = _stamp(state)
    return dict(sorted(stamps.items()))


def read_folder(folder: Path) -> ModelFolder:
    """Check a folder and list its tensors from their headers. Raises UntrustedFolder."""
    stamps = scan_stamps(folder)
    side_files = tuple(name for name in SIDE_FILES if name in stamps)
    if "config.json" not in stamps:
        raise UntrustedFolder("config.json", "missing", "add it to the folder")
    for name in side_files:
        most = CONFIG_SIZE_BYTES_MAX if name == "config.json" else SIDE_FILE_SIZE_BYTES_MAX
        _check_size(name, stamps[name].size_bytes, most)
    for name in CODE_CHECKED:
        if name in stamps:
            _refuse_custom_code(_read_object(folder / name), name)
    tensors = _indexed(folder, stamps) if INDEX_FILE in stamps else _single(folder, stamps)
    config = _read_object(folder / "config.json")
    return ModelFolder(folder, config, side_files, tuple(tensors), stamps)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            entries = list(itertools.islice(listing, ENTRY_COUNT_MAX + 1))
    except OSError as err:
        raise UntrustedFolder(folder.name, f"unreadable ({err.strerror})", "check it") from err
    if len(entries) > ENTRY_COUNT_MAX:
        problem = f"more than {ENTRY_COUNT_MAX} entries"
        raise UntrustedFolder(folder.name, problem, "name the model's own folder")
    return sorted(entries, key=lambda entry: entry.name)


def _single(folder: Path, stamps: Mapping[str, FileStamp]) -> list[StoredTensor]:
    if SINGLE_FILE not in stamps:
        problem = f"neither {SINGLE_FILE} nor {INDEX_FILE}"
        raise UntrustedFolder(folder.name, problem, "add the safetensors files")
    with _opened(folder / SINGLE_FILE) as descriptor:
        return read_header(descriptor, SINGLE_FILE)


def _indexed(folder: Path, stamps: Mapping[str, FileStamp]) -> list[StoredTensor]:
    _check_size(INDEX_FILE, stamps[INDEX_FILE].size_bytes, SIDE_FILE_SIZE_BYTES_MAX)
    weight_map = _read_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UntrustedFolder(INDEX_FILE, "no weight_map", _DOWNLOAD_AGAIN)
    file_names = {own_file(file_name) for file_name in weight_map.values()}
    found: dict[tuple[str, str], StoredTensor] = {}
    for file_name in sorted(file_names):
        if file_name not in stamps:
            raise UntrustedFolder(file_name, "missing", "complete the download")
        with _opened(folder / file_name) as descriptor:
            for tensor in read_header(descriptor, file_name):
                found[tensor.name, file_name] = tensor
    missing = [name for name, file_name in weight_map.items() if (name, file_name) not in found]
    if missing:
        raise UntrustedFolder(
            INDEX_FILE,
            f"{len(missing)} tensors are not where it says, such as {missing[0][:200]}",
            "complete the download",
        )
    return [found[name, file_name] for name, file_name in weight_map.items()]


def own_file(file_name: object) -> str:
    """A name of the index that is a safetensors file of the same folder. Raises UntrustedFolder."""
    if (
        not isinstance(file_name, str)
        or not file_name.endswith(".safetensors")
        or Path(file_name).name != file_name
        or "\0" in file_name
    ):
        raise UntrustedFolder(
            INDEX_FILE, "it names something else than its folder's safetensors", "correct it"
        )
    return file_name


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a plain file for reading; a link put there since the scan is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        raise UntrustedFolder(path.name, f"unreadable ({err.strerror})", "check it") from err
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UntrustedFolder(path.name, "not a regular file", "remove it")
        yield descriptor
    finally:
        os.close(descriptor)


def _stamp(state: os.stat_result) -> FileStamp:
    return FileStamp(state.st_size, state.st_mtime_ns)


def _check_size(file_name: str, size_bytes: int, most: int) -> None:
    if size_bytes > most:
        raise UntrustedFolder(
            file_name, f"{size_bytes} bytes, at most {most} are read", "shorten it"
        )


def _read_object(path: Path) -> dict[str, Any]:
    with _opened(path) as descriptor:
        _check_size(path.name, os.fstat(descriptor).st_size, SIDE_FILE_SIZE_BYTES_MAX)
        raw = os.pread(descriptor, SIDE_FILE_SIZE_BYTES_MAX, 0)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise UntrustedFolder(path.name, "not valid JSON", _DOWNLOAD_AGAIN) from err
    if not isinstance(value, dict):
        raise UntrustedFolder(path.name, "not a JSON object", _DOWNLOAD_AGAIN)
    return value


def _refuse_custom_code(config: Mapping[str, Any], file_name: str) -> None:
    for key in CODE_KEYS:
        if key in config:
            raise UntrustedFolder(
                file_name,
                f"{key} asks for code from the folder, which is never run",
                "remove the entry if the architecture is one that is built in",
            )
