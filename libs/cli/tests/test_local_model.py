"""What `--model` may name: folders and GGUF files, and what is refused before anything starts."""

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from shoal_cli.errors import BadOptions, ModelMissing
from shoal_cli.local_model import LocalModel, pick_models, read_local_model, shipped_model


def write_gguf(path: Path, change: Callable[[gguf.GGUFWriter], None] | None = None) -> Path:
    """A header whose layer count stands behind every kind of value that must be skipped."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_string("of.text", "word")
    writer.add_bool("of.truth", True)
    writer.add_uint64("of.eight", 1 << 40)
    writer.add_array("of.words", ["one", "", "three"])
    writer.add_array("of.numbers", [1.5, 2.5])
    if change is None:
        writer.add_block_count(5)
    else:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def with_length(data: bytes, key: bytes, length: int) -> bytes:
    """The list of that key claims another length; its types stand between."""
    start = data.index(key) + len(key) + 8
    return data[:start] + length.to_bytes(8, "little") + data[start + 8 :]


def test_gguf_file_is_served_under_its_name(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny-q8_0.gguf")
    model = read_local_model(file)
    assert model == LocalModel("tiny-q8_0", file, 5)
    assert model.is_gguf
    (tmp_path / "link").symlink_to(tmp_path)
    assert read_local_model(tmp_path / "link" / file.name) == model


def test_folder_with_one_gguf_file_stands_for_the_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "config.json").write_text("{}")
    assert read_local_model(tmp_path).path == file
    write_gguf(tmp_path / "other.gguf")
    with pytest.raises(BadOptions, match=r"name one of other\.gguf, tiny\.gguf"):
        read_local_model(tmp_path)


def test_safetensors_of_a_folder_win_over_gguf_files(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 4}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert read_local_model(tmp_path).layer_count == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: b"GGML" + data[4:], "begins otherwise"),
        (lambda data: data[:4] + b"\0\0\0\3" + data[8:], "version 50331648"),
        (lambda data: data[:-6], "ends in its header"),
        (lambda data: data[:24] + b"\xff" * 8 + data[32:], "key is too long"),
        (lambda data: data.replace(b"of.words\x09", b"of.words\x63"), "unknown type 99"),
        (lambda data: with_length(data, b"of.words", 2**40), "ends in its header"),
        (lambda data: with_length(data, b"of.numbers", 2**64 - 1), "impossible"),
        (lambda data: data[:-4] + b"\0" * 4, "no layers"),
    ],
)
def test_damaged_gguf_files_are_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], problem: str
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    # The writer pads behind the last value, which is the layer count.
    whole = whole[: whole.index(b"block_count") + len(b"block_count") + 8]
    file.write_bytes(whole)
    assert read_local_model(file).layer_count == 5
    damaged = change(whole)
    assert damaged != whole
    file.write_bytes(damaged)
    with pytest.raises(BadOptions, match=problem):
        read_local_model(file)


def test_gguf_file_that_names_no_layers_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", lambda writer: writer.add_context_length(64))
    with pytest.raises(BadOptions, match="does not say how many layers"):
        read_local_model(file)


def test_any_cut_of_a_gguf_header_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    data = file.read_bytes()
    for size in range(data.index(b"block_count")):
        file.write_bytes(data[:size])
        with pytest.raises(BadOptions):
            read_local_model(file)


def test_model_folder_is_read_from_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 4}')
    with pytest.raises(BadOptions, match=r"tokenizer\.json is missing"):
        read_local_model(folder)
    (folder / "tokenizer.json").write_text("{}")
    assert read_local_model(folder) == LocalModel("tiny", folder, 4)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"num_hidden_layers": 0}'])
def test_config_without_layers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadOptions, match=r"config\.json"):
        read_local_model(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="--model PATH"):
        read_local_model(tmp_path)


def test_shipped_model_is_there() -> None:
    assert read_local_model(shipped_model()).name == "heavyweight"


def names(paths: list[Path], drafter: str | None, *, wants_cascade: bool = True) -> tuple[str, str]:
    models, drafts = pick_models(paths, drafter, wants_cascade)
    return ",".join(model.name for model in models), drafts


def test_the_demo_models_are_a_pair_where_none_is_named() -> None:
    assert names([], None) == ("heavyweight,drafter", "drafter")
    assert names([], None, wants_cascade=False) == ("heavyweight", "")


def test_a_drafter_is_one_of_the_models_or_another(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    own = shipped_model("drafter")
    assert names([file], None) == ("tiny", "")
    assert names([file], str(own)) == ("tiny,drafter", "drafter")
    assert names([file, own], "drafter") == ("tiny,drafter", "drafter")
    assert names([file, own], str(own)) == ("tiny,drafter", "drafter")
    assert names([], str(file)) == ("heavyweight,tiny", "tiny")
    with pytest.raises(ModelMissing):
        names([file], "nobody")
