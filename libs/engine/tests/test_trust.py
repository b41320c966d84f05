"""Folders that are not plain data are refused, and pickles are never opened."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal_engine.errors import UntrustedCheckpoint
from shoal_engine.trust import CONFIG_SIZE_BYTES_MAX, check_untrusted, weight_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_plain_folder_passes(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "original").mkdir()
    check_untrusted(folder)


def test_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    check_untrusted(folder)


def test_special_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UntrustedCheckpoint, match="pipe: not a regular file"):
        check_untrusted(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickle_alone_is_refused_with_the_remedy(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UntrustedCheckpoint, match=f"{name}.*convert them to safetensors"):
        check_untrusted(folder)


def test_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UntrustedCheckpoint, match="neither"):
        check_untrusted(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "notes.txt"])
def test_symbolic_link_is_refused(
    folder: Path, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("elsewhere") / name
    (folder / name).touch()
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises(UntrustedCheckpoint, match=f"{name}.*cp -L"):
        check_untrusted(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_auto_map_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(UntrustedCheckpoint, match=f"{name}.*auto_map"):
        check_untrusted(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "nul\0", "[" * 100_000, "\udcff", " " * (CONFIG_SIZE_BYTES_MAX + 1)],
    ids=["empty", "list", "open", "nul", "deep", "encoding", "large"],
)
def test_malformed_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UntrustedCheckpoint, match=r"config\.json"):
        check_untrusted(folder)


def test_missing_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UntrustedCheckpoint, match=r"config\.json: missing"):
        check_untrusted(folder)


@pytest.fixture
def write_index(folder: Path) -> Callable[[object], Path]:
    def write(weight_map: object) -> Path:
        index = {"weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return write


def test_index_maps_names_to_files(write_index: Callable[[object], Path]) -> None:
    folder = write_index({"a": "model-1.safetensors"})
    assert weight_files(folder) == {"a": folder / "model-1.safetensors"}


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        ["a"],
        {"a": 1},
        {"a": "../secret.safetensors"},
        {"a": "/etc/x.safetensors"},
        {"a": "sub/x.safetensors"},
        {"a": "pytorch_model.bin"},
        {"a": "x\0.safetensors"},
    ],
    ids=str,
)
def test_index_that_leaves_the_folder_is_refused(
    write_index: Callable[[object], Path], weight_map: object
) -> None:
    with pytest.raises(UntrustedCheckpoint, match=r"index\.json"):
        weight_files(write_index(weight_map))
