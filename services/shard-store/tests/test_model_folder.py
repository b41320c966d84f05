"""What folders of strangers may hold."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal_shard_store.errors import FolderNotAllowed, SourceChanged, UntrustedFolder
from shoal_shard_store.manifest import facts_of
from shoal_shard_store.model_folder import allowed_folder, read_folder

_EMBEDDING = "model.embed_tokens.weight"
_CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def _header(model_folder: Path) -> dict[str, Any]:
    raw = (model_folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    return header


def test_plain_folder_lists_every_tensor(model_folder: Path) -> None:
    folder = read_folder(model_folder)
    assert len(folder.tensors) == 7
    assert folder.side_files == ("config.json", "tokenizer.json")


def test_symlink_is_refused(model_folder: Path) -> None:
    (model_folder / "vocab.json").symlink_to("/etc/hostname")
    with pytest.raises(UntrustedFolder, match=r"vocab\.json: symbolic links are not followed"):
        read_folder(model_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "y.PKL"])
def test_pickle_is_refused_without_being_opened(model_folder: Path, name: str) -> None:
    (model_folder / name).touch(mode=0)
    with pytest.raises(UntrustedFolder, match="pickled data can run code"):
        read_folder(model_folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_is_refused(model_folder: Path, name: str) -> None:
    (model_folder / name).write_text(json.dumps({**_CONFIG, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(UntrustedFolder, match="auto_map asks for code"):
        read_folder(model_folder)


def test_special_file_is_refused(model_folder: Path) -> None:
    os.mkfifo(model_folder / "pipe.safetensors")
    with pytest.raises(UntrustedFolder, match="not a regular file"):
        read_folder(model_folder)


def test_folder_without_weights_is_refused(model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(UntrustedFolder, match=r"neither model\.safetensors nor"):
        read_folder(model_folder)


@pytest.mark.parametrize("claimed", [0, 1, 1 << 40, (1 << 64) - 1])
def test_header_length_out_of_bounds_is_refused(model_folder: Path, claimed: int) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + path.read_bytes()[8:])
    with pytest.raises(UntrustedFolder, match=f"its header claims {claimed} bytes"):
        read_folder(model_folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"data_offsets": [0, 64], "shape": [65]}, "takes 64 bytes where its shape says 65"),
        ({"data_offsets": [448, 512]}, "ends at byte"),
        ({"data_offsets": [64, 128]}, "overlaps another|follows a gap"),
        ({"data_offsets": [-64, 0]}, "impossible offsets"),
        ({"data_offsets": [1 << 60, (1 << 60) + 64]}, "impossible offsets"),
        ({"dtype": "PICKLE"}, "unknown dtype"),
        ({"shape": [8, True]}, "impossible shape"),
        ({"shape": [2] * 40}, "impossible shape"),
    ],
)
def test_tensor_out_of_the_format_is_refused(
    model_folder: Path,
    write_header: Callable[[Mapping[str, Any]], None],
    change: dict[str, Any],
    problem: str,
) -> None:
    header = _header(model_folder)
    header[_EMBEDDING].update(change)
    write_header(header)
    with pytest.raises(UntrustedFolder, match=problem):
        read_folder(model_folder)


def test_overlapping_tensors_are_refused(
    model_folder: Path, write_header: Callable[[Mapping[str, Any]], None]
) -> None:
    header = _header(model_folder)
    header["lm_head.weight"]["data_offsets"] = [0, 64]
    write_header(header)
    with pytest.raises(UntrustedFolder, match="overlaps another"):
        read_folder(model_folder)


def test_truncated_file_is_refused(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UntrustedFolder, match="complete the download"):
        read_folder(model_folder)


@pytest.mark.parametrize("file_name", ["../x.safetensors", "x.bin", "/etc/passwd", 7])
def test_index_that_leaves_the_folder_is_refused(model_folder: Path, file_name: object) -> None:
    index = {"weight_map": {_EMBEDDING: file_name}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UntrustedFolder, match="something else than its folder's safetensors"):
        read_folder(model_folder)


def test_folder_outside_the_roots_is_refused(tmp_path: Path, model_folder: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(model_folder)
    for path in (str(model_folder), f"{root}/../tiny", str(root / "link"), "tiny", ""):
        with pytest.raises(FolderNotAllowed, match="may not be imported"):
            allowed_folder(path, (root,))
    assert allowed_folder(str(model_folder), (tmp_path,)) == model_folder


def test_file_that_changed_since_the_scan_is_noticed(model_folder: Path) -> None:
    folder = read_folder(model_folder)
    (model_folder / "tokenizer.json").write_text("{ }")
    with (
        pytest.raises(SourceChanged, match=r"tokenizer\.json changed"),
        folder.opened("tokenizer.json"),
    ):
        pass


def test_missing_head_is_refused_unless_tied() -> None:
    with pytest.raises(UntrustedFolder, match=r"lm_head\.weight is missing"):
        facts_of({**_CONFIG, "tie_word_embeddings": False}, [_EMBEDDING])
    assert facts_of({**_CONFIG, "tie_word_embeddings": True}, [_EMBEDDING]).tie_embeddings
