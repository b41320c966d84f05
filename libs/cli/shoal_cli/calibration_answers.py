"""Both models' answers to labelled prompts, from a running fleet, kept so that a stop loses none.

Owns asking, trying again, and the file of answers. Does not know who is right, nor what is made of
the answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from shoal_cli.client import CHAT_PATH, GatewayClient
from shoal_cli.errors import GatewayFailed
from shoal_entropy_drafter.calibration.cases import Answered, answered_from
from shoal_entropy_drafter.calibration.prompts import LabelledPrompt, calls_of
from shoal_entropy_drafter.entropy import Entropy

log = logging.getLogger(__name__)

DRAFT_PATH = "/api/admin/cascade/draft"
TRIES_MAX = 3
FAILURES_IN_A_ROW_MAX = 8
"""Then something is wrong with more than a prompt."""
_PAUSE_S = 1.0
_PAUSE_S_MAX = 60.0
_FATAL = (401, 403, 404, 405)

Role = Literal["drafter", "heavyweight"]


@dataclass(frozen=True)
class Asking:
    """Whom to ask and how. drafter names the model for the file of answers."""

    drafter: str
    heavyweight: str
    max_tokens: int = 512
    concurrency: int = 1

    def key(self, role: Role, prompt: LabelledPrompt) -> str:
        """Of an answer: who was asked what, and how long it might be."""
        model = self.drafter if role == "drafter" else self.heavyweight
        asked = json.dumps([role, model, prompt.key, self.max_tokens])
        return hashlib.sha256(asked.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Failure:
    """A prompt that one of the models did not answer."""

    prompt_id: str
    role: Role
    detail: str


@dataclass
class Collected:
    """Answers by the key of their question, and what is missing."""

    drafts: dict[str, Answered] = field(default_factory=dict)
    heavies: dict[str, Answered] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class AnswerBook:
    """The file of answers: one JSON object a line, appended as they come. Use it as a context.

    A line that a stop cut off is passed over, and its answer asked for again.
    """

    def __init__(self, path: Path, is_fresh: bool = False) -> None:
        self._path = path
        self._known: dict[str, Answered] = {}
        self._file: TextIO | None = None
        if not is_fresh and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._take(line)
        self._is_fresh = is_fresh

    def __enter__(self) -> AnswerBook:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w" if self._is_fresh else "a", encoding="utf-8")
        # Behind a line that was cut off the next one would be lost, too.
        self._file.write("\n")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()

    def get(self, key: str) -> Answered | None:
        return self._known.get(key)

    def put(self, key: str, answer: Answered) -> None:
        """Keep an answer, on disk before this returns."""
        assert self._file is not None, "enter the book first"
        self._known[key] = answer
        self._file.write(json.dumps({"key": key, **answer.as_json()}) + "\n")
        self._file.flush()

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._known[str(entry["key"])] = answered_from(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            if line.strip():
                log.warning("kept answer cannot be read", extra={"file": str(self._path)})


class Collector:
    """Asks both models every prompt, a few at once; what is in the book is not asked again.

    roles: one of them where only one model is wanted.
    """

    def __init__(
        self,
        client: GatewayClient,
        asking: Asking,
        book: AnswerBook,
        progress: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        roles: Sequence[Role] = ("drafter", "heavyweight"),
    ) -> None:
        self._client = client
        self._asking = asking
        self._book = book
        self._progress = progress
        self._sleep = sleep
        self._roles = roles
        self._failed_in_a_row = 0

    async def collect(self, prompts: Sequence[LabelledPrompt]) -> Collected:
        """Answers to all prompts; progress is called after each.

        Raises GatewayFailed where no prompt could be answered: the key, the route, the model.
        """
        jobs: deque[tuple[LabelledPrompt, Role]] = deque()
        for prompt in prompts:
            jobs += [(prompt, role) for role in self._roles]
        collected = Collected()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._asking.concurrency, len(jobs))):
                    tasks.create_task(self._work(jobs, collected))
        except* GatewayFailed as errors:
            raise errors.exceptions[0] from None
        return collected

    async def _work(self, jobs: deque[tuple[LabelledPrompt, Role]], collected: Collected) -> None:
        while jobs:
            prompt, role = jobs.popleft()
            found = collected.drafts if role == "drafter" else collected.heavies
            try:
                found[prompt.key] = await self._answer(prompt, role)
                self._failed_in_a_row = 0
            except GatewayFailed as err:
                collected.failures.append(Failure(prompt.prompt_id, role, str(err)))
                self._failed_in_a_row += 1
                if err.status in _FATAL or self._failed_in_a_row >= FAILURES_IN_A_ROW_MAX:
                    raise
            self._progress()

    async def _answer(self, prompt: LabelledPrompt, role: Role) -> Answered:
        key = self._asking.key(role, prompt)
        if (known := self._book.get(key)) is not None:
            return known
        for attempt in range(1, TRIES_MAX + 1):
            try:
                answer = await self._ask(prompt, role)
                break
            except GatewayFailed as err:
                if attempt == TRIES_MAX or not _is_passing(err):
                    raise
                pause_s = err.retry_after_s or _PAUSE_S * 2 ** (attempt - 1)
                await self._sleep(min(pause_s, _PAUSE_S_MAX))
        self._book.put(key, answer)
        return answer

    async def _ask(self, prompt: LabelledPrompt, role: Role) -> Answered:
        body: dict[str, Any] = {
            "messages": list(prompt.messages),
            "temperature": 0,
            "max_tokens": self._asking.max_tokens,
        }
        if prompt.tools:
            body["tools"] = list(prompt.tools)
        began = time.perf_counter()
        if role == "drafter":
            said = await self._client.post(DRAFT_PATH, body)
        else:
            body |= {"model": self._asking.heavyweight, "stream": False}
            said = await self._client.post(CHAT_PATH, body)
        wall_s = time.perf_counter() - began
        try:
            return _draft(said, wall_s) if role == "drafter" else _reply(said, wall_s)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
            raise GatewayFailed(
                f"the gateway's answer by the {role} lacks what is needed "
                f"({type(err).__name__}: {err}): is it of another version than this command?"
            ) from err


def _is_passing(err: GatewayFailed) -> bool:
    return err.status in (0, 408, 429) or err.status >= 500


def _draft(said: dict[str, Any], wall_s: float) -> Answered:
    """An ungated draft with its entropies; raises KeyError and its like for anything else."""
    return Answered(
        text=said["text"] or "",
        calls=calls_of(said.get("tool_calls") or ()),
        completion_tokens=int(said["usage"]["completion_tokens"]),
        wall_s=wall_s,
        entropies=tuple(
            Entropy(
                lower=float(token["lower_bits"]),
                upper=float(token["upper_bits"]),
                renormalised=float(token["renormalised_bits"]),
                margin=float(token["margin"]),
                is_known=bool(token["is_known"]),
            )
            for token in said["tokens"]
        ),
    )


def _reply(said: dict[str, Any], wall_s: float) -> Answered:
    message = said["choices"][0]["message"]
    return Answered(
        text=message.get("content") or "",
        calls=calls_of(message.get("tool_calls") or ()),
        completion_tokens=int(said["usage"]["completion_tokens"]),
        wall_s=wall_s,
    )
