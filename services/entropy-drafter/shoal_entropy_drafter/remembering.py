"""What of a request outlives its answer: kept answers, and what was lately looked up.

Owns the way from a ChatTask to the cache and back. Does not know drafts, nor how answers are found.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal_entropy_drafter.cache.base import AnswerCache, Hit, KeptAnswer, Vector
from shoal_entropy_drafter.metrics import Recorder
from shoal_entropy_drafter.question import NotCacheable, Question, QuestionRules, question_of

NOTES_MAX = 4096
"""Requests whose vectors are held until their answers come: 6 MB at 384 numbers each."""

_LAYERS = {
    "exact": drafter_pb2.CACHE_LAYER_EXACT,
    "semantic": drafter_pb2.CACHE_LAYER_SEMANTIC,
}


@dataclass
class _Note:
    """One request that was answered lately. Holds nothing of its text.

    exact_key: of the question; "" where nothing was looked up. may_keep: its caller did not forbid
    it. is_kept: what came of remembering it, None before.
    """

    exact_key: str = ""
    vector: Vector | None = field(default=None, repr=False)
    may_keep: bool = True
    is_kept: bool | None = None


class Memory:
    """Looks up and keeps answers; serves any number of requests at once."""

    def __init__(
        self,
        cache: AnswerCache,
        rules: QuestionRules,
        recorder: Recorder,
        keeps_heavyweight: bool,
        notes_max: int = NOTES_MAX,
    ) -> None:
        self._cache = cache
        self._rules = rules
        self._recorder = recorder
        self._keeps_heavyweight = keeps_heavyweight
        self._notes: OrderedDict[str, _Note] = OrderedDict()
        self._notes_max = notes_max

    async def look_up(self, request: drafter_pb2.AnswerRequest) -> drafter_pb2.CacheHit | None:
        """The kept answer to a request, if there is one and its caller wants it."""
        note = self._note(request.request_id, is_new=True)
        note.may_keep = request.cache_use != drafter_pb2.CACHE_USE_NONE
        if request.cache_use != drafter_pb2.CACHE_USE_UNSPECIFIED:
            return None
        question = self._question(request.task)
        if question is None:
            return None
        found = await self._cache.look_up(question)
        note.exact_key, note.vector = question.exact_key, found.vector
        return _message(found.hit) if found.hit is not None else None

    async def remember(self, request: drafter_pb2.RememberRequest) -> bool:
        """Keep an answer that stood; whether it is kept. The same request again changes nothing."""
        note = self._note(request.request_id)
        if note.is_kept is not None:
            return note.is_kept
        is_foreign = request.answered_by != "drafter" and not self._keeps_heavyweight
        question = self._question(request.task)
        if is_foreign or not note.may_keep or not request.text or question is None:
            return False
        answer = KeptAnswer(
            text=request.text,
            answered_by=request.answered_by,
            prompt_token_count=request.prompt_token_count,
            completion_token_count=request.completion_token_count,
        )
        vector = note.vector if note.exact_key == question.exact_key else None
        is_kept = await self._cache.store(question, vector, answer)
        # What failed may be tried again.
        note.is_kept = is_kept or None
        note.vector = None
        return is_kept

    async def forget(self, request: drafter_pb2.ForgetRequest) -> int:
        """Let go of kept answers; how many they were."""
        # An answer under way may still come to be kept, but not by what was read before.
        for note in self._notes.values():
            note.vector = None
        return await self._cache.forget(request.tenant, request.model)

    def _question(self, task: chat_pb2.ChatTask) -> Question | None:
        try:
            return question_of(task, self._rules)
        except NotCacheable as err:
            self._recorder.not_cacheable(err.reason)
            return None

    def _note(self, request_id: str, is_new: bool = False) -> _Note:
        """The request's note; one that is not written down for requests without an id."""
        if not request_id:
            return _Note()
        if is_new:
            self._notes.pop(request_id, None)
        note = self._notes.setdefault(request_id, _Note())
        self._notes.move_to_end(request_id)
        while len(self._notes) > self._notes_max:
            self._notes.popitem(last=False)
        return note


def _message(hit: Hit) -> drafter_pb2.CacheHit:
    return drafter_pb2.CacheHit(
        text=hit.answer.text,
        similarity=hit.similarity,
        age_s=hit.age_s,
        layer=_LAYERS[hit.layer],
        prompt_token_count=hit.answer.prompt_token_count,
        completion_token_count=hit.answer.completion_token_count,
        answered_by=hit.answer.answered_by,
    )
