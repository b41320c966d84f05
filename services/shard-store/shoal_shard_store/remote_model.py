"""A model as a source describes it, from headers and small files alone.

Owns which files of a repository make a model and how little of them is read to plan: two small
ranges of each safetensors file; doubling ranges from 64 KiB of a GGUF file, whose header does not
say how long it is. Keeps nothing on disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal_shard_store.errors import InvalidRepo, UntrustedFolder
from shoal_shard_store.gguf_header import HEADER_SIZE_BYTES_MAX, HeaderCut, parse_gguf
from shoal_shard_store.gguf_model import GgufModel
from shoal_shard_store.gguf_tokenizer import tokenizer_files
from shoal_shard_store.manifest import ModelFacts, facts_of
from shoal_shard_store.model_folder import (
    CODE_CHECKED,
    CODE_KEYS,
    CONFIG_SIZE_BYTES_MAX,
    INDEX_FILE,
    SIDE_FILE_SIZE_BYTES_MAX,
    SIDE_FILES,
    SINGLE_FILE,
    own_file,
)
from shoal_shard_store.safetensors_header import StoredTensor, header_size, parse_header
from shoal_shard_store.sources.base import FileSource, RemoteFile, read_all

log = logging.getLogger(__name__)

_FIRST_RANGE_BYTES = 64 << 10
_DOWNLOAD_AGAIN = "name another repository"


@dataclass(frozen=True)
class RemoteModel:
    """What a manifest needs but the digests.

    `side_files` are the small ones, whole; `files` those that hold `tensors`. `identity` tells
    these weights from all others.
    """

    facts: ModelFacts
    side_files: Mapping[str, bytes]
    tensors: tuple[StoredTensor, ...]
    files: Mapping[str, RemoteFile]
    identity: Mapping[str, Any]


async def read_model(source: FileSource, file_name: str = "") -> RemoteModel:
    """Describe a repository's safetensors, or the GGUF file that is named or the only one.

    Raises UntrustedFolder, InvalidRepo, and what the source raises.
    """
    files = await source.files()
    name = file_name or _only_gguf(source, files)
    if not name:
        return await _read_safetensors(source, files)
    if name not in files:
        raise InvalidRepo(source.origin, f"it has no file {name[:200]}")
    return await _read_gguf(source, files[name])


def _only_gguf(source: FileSource, files: Mapping[str, RemoteFile]) -> str:
    """The GGUF file of a repository without safetensors."""
    if SINGLE_FILE in files or INDEX_FILE in files:
        return ""
    found = sorted(name for name in files if name.endswith(".gguf"))
    if not found:
        raise InvalidRepo(source.origin, "it has neither safetensors nor GGUF files")
    if len(found) > 1:
        raise InvalidRepo(source.origin, f"choose one of its files: {', '.join(found)[:800]}")
    return found[0]


async def _read_safetensors(source: FileSource, files: Mapping[str, RemoteFile]) -> RemoteModel:
    if "config.json" not in files:
        raise InvalidRepo(source.origin, "it has no config.json")
    side_files = {
        name: await _small_file(source, files[name]) for name in SIDE_FILES if name in files
    }
    side_files |= {
        name: _without_code(side_files[name], name) for name in CODE_CHECKED if name in side_files
    }
    if INDEX_FILE in files:
        tensors, used = await _indexed(source, files)
    else:
        used = {SINGLE_FILE}
        tensors = await _header(source, files[SINGLE_FILE])
    facts = facts_of(_object(side_files["config.json"], "config.json"), [t.name for t in tensors])
    held = {name: files[name] for name in sorted(used)}
    return RemoteModel(facts, side_files, tuple(tensors), held, _identity(source, held))


async def _indexed(
    source: FileSource, files: Mapping[str, RemoteFile]
) -> tuple[list[StoredTensor], set[str]]:
    index = _object(await _small_file(source, files[INDEX_FILE]), INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UntrustedFolder(INDEX_FILE, "no weight_map", _DOWNLOAD_AGAIN)
    used = {own_file(name) for name in weight_map.values()}
    found: dict[tuple[str, str], StoredTensor] = {}
    for name in sorted(used):
        if name not in files:
            raise UntrustedFolder(name, "missing in the repository", _DOWNLOAD_AGAIN)
        for tensor in await _header(source, files[name]):
            found[tensor.name, name] = tensor
    missing = [item for item in weight_map.items() if item not in found]
    if missing:
        problem = f"{len(missing)} tensors are not where it says, such as {missing[0][0][:200]}"
        raise UntrustedFolder(INDEX_FILE, problem, _DOWNLOAD_AGAIN)
    return [found[item] for item in weight_map.items()], used


async def _header(source: FileSource, file: RemoteFile) -> list[StoredTensor]:
    prefix = await read_all(source, file, 0, min(8, file.size_bytes))
    size_bytes = header_size(prefix, file.name, file.size_bytes)
    raw = await read_all(source, file, 8, size_bytes)
    return parse_header(raw, file.name, file.size_bytes)


async def _small_file(source: FileSource, file: RemoteFile) -> bytes:
    most = CONFIG_SIZE_BYTES_MAX if file.name == "config.json" else SIDE_FILE_SIZE_BYTES_MAX
    if file.size_bytes > most:
        problem = f"{file.size_bytes} bytes, at most {most} are read"
        raise UntrustedFolder(file.name, problem, _DOWNLOAD_AGAIN)
    return await read_all(source, file, 0, file.size_bytes)


def _object(raw: bytes, file_name: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise UntrustedFolder(file_name, "not valid JSON", _DOWNLOAD_AGAIN) from err
    if not isinstance(value, dict):
        raise UntrustedFolder(file_name, "not a JSON object", _DOWNLOAD_AGAIN)
    return value


def _without_code(raw: bytes, file_name: str) -> bytes:
    """The file without requests to run the repository's code, which nobody would follow."""
    value = _object(raw, file_name)
    if not any(key in value for key in CODE_KEYS):
        return raw
    log.info("request to run code left out", extra={"file": file_name})
    return json.dumps({key: each for key, each in value.items() if key not in CODE_KEYS}).encode()


async def _read_gguf(source: FileSource, file: RemoteFile) -> RemoteModel:
    data = b""
    while True:
        wanted = min(max(_FIRST_RANGE_BYTES, 2 * len(data)), file.size_bytes, HEADER_SIZE_BYTES_MAX)
        if wanted <= len(data):
            raise UntrustedFolder(file.name, "its header does not end", "complete the download")
        data += await read_all(source, file, len(data), wanted - len(data))
        try:
            header = parse_gguf(data, file.name, file.size_bytes)
            break
        except HeaderCut:
            continue
    model = GgufModel(header, file.name)
    place = model.rope_factors_place()
    factors = b"" if place is None else await read_all(source, file, *place)
    config = model.config(factors)
    tensors = model.tensors()
    side_files = {
        "config.json": json.dumps(config).encode(),
        **tokenizer_files(header.metadata, file.name),
    }
    facts = facts_of(config, [tensor.name for tensor in tensors])
    held = {file.name: file}
    return RemoteModel(facts, side_files, tuple(tensors), held, _identity(source, held))


def _identity(source: FileSource, files: Mapping[str, RemoteFile]) -> dict[str, Any]:
    """A folder's path is its owner's business; its files say enough."""
    return {
        "origin": "" if source.name == "folder" else source.origin,
        "files": {
            name: {"size_bytes": file.size_bytes, "etag": file.etag} for name, file in files.items()
        },
    }
