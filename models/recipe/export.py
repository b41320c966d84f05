"""Writes a trained model as a Hugging Face folder with its model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from recipe.model import config_fields
from recipe.presets import Preset
from recipe.tokenizer import END_OF_TEXT, TEMPLATE_PATH, TURN_END, TURN_START

CARD_PATH = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True)
class Origin:
    """How a model came to be, for its card."""

    seed: int
    token_count: int
    loss: float


def export(folder: Path, preset: Preset, model: Any, tokenizer: Tokenizer, origin: Origin) -> None:
    """Fill `folder` (made if missing) with bf16 weights, config, tokenizer, template and card.

    The tied head is not stored twice. Files of an earlier export are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    template = TEMPLATE_PATH.read_text(encoding="utf-8")
    weights = {
        name: parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    # The library writes for the owner alone; a service may run as another user.
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", config_fields(preset.shape))
    _write_json(folder / "generation_config.json", _generation_config(tokenizer))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(preset, template))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    parameter_count = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(_card(preset, parameter_count, origin), encoding="utf-8")


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    end_of_text, turn_end = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(TURN_END)
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": [turn_end, end_of_text],
        "pad_token_id": end_of_text,
        "do_sample": False,
    }


def _tokenizer_config(preset: Preset, template: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": preset.shape.context_tokens_max,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": [TURN_START],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        # Runtimes older than the template file look here.
        "chat_template": template,
    }


def _card(preset: Preset, parameter_count: int, origin: Origin) -> str:
    shape = preset.shape
    return CARD_PATH.read_text(encoding="utf-8").format(
        name=preset.name,
        parameters_millions=f"{parameter_count / 1e6:.2f}",
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        layer_count=shape.layer_count,
        head_count=shape.head_count,
        kv_head_count=shape.kv_head_count,
        head_dim=shape.head_dim,
        context_tokens_max=shape.context_tokens_max,
        tokens_millions=f"{origin.token_count / 1e6:.1f}",
        seed=origin.seed,
        loss=f"{origin.loss:.3f}",
    )


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
