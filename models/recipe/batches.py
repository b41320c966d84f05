"""An endless, resumable stream of padded batches drawn from a corpus mix."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from recipe.corpus import Mix, conversation
from recipe.tables import Tables
from recipe.tokenizer import ChatEncoder, Encoded

POOL_SIZE = 400
"""Conversations drawn at once and sorted by length, so that batches need little padding."""
CONVERSATION_TOKENS_MAX = 1400
PADDING_ID = 0


@dataclass(frozen=True)
class Cursor:
    """Place in the stream: batches before `batch_index` of pool `pool_index` are used up."""

    pool_index: int = 0
    batch_index: int = 0


@dataclass(frozen=True)
class Batch:
    """token_ids and is_target are (B, T); `after` is the cursor of the next batch."""

    token_ids: Tensor
    is_target: Tensor
    after: Cursor


@dataclass(frozen=True)
class BatchSource:
    """Makes batches as a pure function of (seed, mix, cursor)."""

    seed: int
    tables: Tables
    encoder: ChatEncoder
    batch_tokens: int

    def stream(self, mix: Mix, label: str, start: Cursor) -> Iterator[Batch]:
        """Batches of at most `batch_tokens` padded tokens each, from `start` on, for ever.

        `label` keeps phases apart: streams of different labels share no conversation order.
        """
        cursor = start
        while True:
            rng = Random(f"{label}-{self.seed}-{cursor.pool_index}")
            groups = self._pool(rng, mix)
            for index in range(cursor.batch_index, len(groups)):
                is_last = index + 1 == len(groups)
                pool_index = cursor.pool_index
                after = Cursor(pool_index + 1) if is_last else Cursor(pool_index, index + 1)
                yield _pad(groups[index], after)
            cursor = Cursor(cursor.pool_index + 1)

    def _pool(self, rng: Random, mix: Mix) -> list[list[Encoded]]:
        drawn = (self.encoder.encode(conversation(rng, self.tables, mix)) for _ in range(POOL_SIZE))
        fitting = [chat for chat in drawn if len(chat.token_ids) <= CONVERSATION_TOKENS_MAX]
        groups = _group(sorted(fitting, key=lambda chat: len(chat.token_ids)), self.batch_tokens)
        rng.shuffle(groups)
        return groups


def _group(chats: list[Encoded], batch_tokens: int) -> list[list[Encoded]]:
    """Cut chats, sorted by length, into runs whose padded size stays within `batch_tokens`."""
    groups: list[list[Encoded]] = []
    for chat in chats:
        if groups and len(chat.token_ids) * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(chat)
        else:
            groups.append([chat])
    return groups


def _pad(chats: list[Encoded], after: Cursor) -> Batch:
    width = max(len(chat.token_ids) for chat in chats)
    token_ids = torch.full((len(chats), width), PADDING_ID, dtype=torch.long)
    is_target = torch.zeros((len(chats), width), dtype=torch.bool)
    for row, chat in enumerate(chats):
        token_ids[row, : len(chat.token_ids)] = torch.tensor(chat.token_ids)
        is_target[row, : len(chat.is_target)] = torch.tensor(chat.is_target)
    return Batch(token_ids, is_target, after)
