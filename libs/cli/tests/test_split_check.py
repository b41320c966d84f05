"""A split model makes the same tokens as the whole one, and a difference is found."""

from pathlib import Path

import gguf
import pytest

from shoal_cli import split_check
from shoal_cli.errors import BadOptions
from shoal_cli.split_check import Comparison, SplitOptions


def test_shipped_drafter_split_in_two_makes_the_same_tokens() -> None:
    folder = Path(__file__).resolve().parents[3] / "models" / "drafter"
    steps: list[None] = []
    options = SplitOptions(folder, 2, 6, prompts=("Count from one to ten.",))
    (result,) = split_check.compare(options, lambda: steps.append(None))
    assert result.is_equal
    assert len(result.split) == 6
    assert len(steps) == 2


def test_first_difference_is_named() -> None:
    result = Comparison("p", (1, 2, 3), (1, 9, 3))
    assert not result.is_equal
    assert result.first_difference == 1


def test_more_stages_than_layers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadOptions, match="2 layers"):
        split_check.compare(SplitOptions(tmp_path, 3), lambda: None)


def test_gguf_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BadOptions, match=r"tiny\.gguf is a GGUF file"):
        split_check.compare(SplitOptions(file), lambda: None)
