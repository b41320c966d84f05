"""From the command line to a folder that transformers loads."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from recipe import make
from recipe.chat import Exchange, question
from recipe.evaluate import entropy_bits, load
from recipe.export import Origin, export
from recipe.model import build_model
from recipe.presets import DRAFTER, HEAVYWEIGHT, Preset
from recipe.tables import Tables
from recipe.tokenizer import ChatEncoder, build_tokenizer
from tokenizers import Tokenizer

ORIGIN = Origin(seed=1, token_count=1_000_000, loss=0.5)


def test_exported_folder_gives_the_trained_models_logits(
    tiny: Preset, tokenizer: Tokenizer, tables: Tables, tmp_path: Path
) -> None:
    model = build_model(tiny.shape, 1)
    export(tmp_path, tiny, model, tokenizer, ORIGIN)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    loaded = load(tmp_path)
    exchange = Exchange(question("Hello!", "Hi.").messages, ("search",))
    ids = ChatEncoder(tokenizer, tables.tools).encode(exchange).token_ids
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        expected = model.eval()(torch.tensor([ids])).logits
        found = loaded.model(torch.tensor([ids])).logits
    assert torch.equal(found, expected)
    text = loaded.tokenizer.decode(list(ids))
    assert loaded.tokenizer(text, add_special_tokens=False)["input_ids"] == list(ids)
    assert loaded.model.generation_config.eos_token_id == [2, 0]


def test_exported_card_names_the_model_and_its_licence(
    tiny: Preset, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(tmp_path, tiny, build_model(tiny.shape, 1), tokenizer, ORIGIN)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "# tiny" in card
    assert "1.0 million tokens" in card


@pytest.mark.parametrize("preset", [DRAFTER, HEAVYWEIGHT], ids=lambda preset: preset.name)
def test_presets_have_the_shape_of_the_shipped_models(preset: Preset) -> None:
    folder = Path(make.__file__).parents[1] / preset.name
    shipped = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = make_config(preset)
    assert {key: shipped[key] for key in named} == named


def make_config(preset: Preset) -> dict[str, int]:
    return {
        "hidden_size": preset.shape.hidden_size,
        "intermediate_size": preset.shape.intermediate_size,
        "num_hidden_layers": preset.shape.layer_count,
        "num_attention_heads": preset.shape.head_count,
        "num_key_value_heads": preset.shape.kv_head_count,
        "head_dim": preset.shape.head_dim,
        "vocab_size": preset.shape.vocabulary_size,
    }


def test_make_trains_reports_and_exports(
    tiny: Preset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(make, "PRESETS", (tiny,))
    monkeypatch.setattr(make, "build_tokenizer", partial(build_tokenizer, sample_count=2000))
    assert make.main(["--model", "tiny", "--out", str(tmp_path), "--budget", "0.003"]) == 0
    assert load(tmp_path / "tiny").parameter_count > 0
    assert "tiny done" in capsys.readouterr().out
    # Started again it finds the work done; with other options it says what lies in the way.
    assert make.main(["--model", "tiny", "--out", str(tmp_path), "--budget", "0.003"]) == 0
    assert make.main(["--model", "tiny", "--out", str(tmp_path), "--seed", "9"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_make_refuses_an_empty_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make.main(["--budget", "0"])
    assert "more than 0" in capsys.readouterr().err


def test_entropy_of_equal_candidates_is_log2_of_their_number() -> None:
    logits = torch.full((1, 100), -30.0)
    logits[0, :4] = 0.0
    assert entropy_bits(logits).item() == pytest.approx(2.0, abs=1e-4)
