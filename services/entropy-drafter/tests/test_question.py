"""What may be kept, and under which key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.common.v1 import chat_pb2
from shoal_entropy_drafter.question import (
    NotCacheable,
    QuestionRules,
    normalised,
    question_of,
)

RULES = QuestionRules(temperature_max=0.7, turns_max=2, no_store_tenants=frozenset({"private"}))
Change = Callable[[chat_pb2.ChatTask], object]


def _message(role: chat_pb2.Role, *texts: str) -> chat_pb2.ChatMessage:
    return chat_pb2.ChatMessage(
        role=role, content=[chat_pb2.ContentPart(text=text) for text in texts]
    )


def _task(text: str = "How do I reset my password?", temperature: float = 0.0) -> chat_pb2.ChatTask:
    return chat_pb2.ChatTask(
        model="demo",
        tenant="acme",
        messages=[
            _message(chat_pb2.ROLE_SYSTEM, "Be brief."),
            _message(chat_pb2.ROLE_USER, "Hi"),
            _message(chat_pb2.ROLE_ASSISTANT, "Hello"),
            _message(chat_pb2.ROLE_USER, text),
        ],
        sampling=chat_pb2.SamplingSpec(temperature=temperature, top_p=1.0, repetition_penalty=1.0),
        max_tokens=100,
    )


def _changed(change: Change, temperature: float = 0.0) -> chat_pb2.ChatTask:
    task = _task(temperature=temperature)
    change(task)
    return task


def _set(path: str, value: object) -> Change:
    def change(task: chat_pb2.ChatTask) -> None:
        *parents, name = path.split(".")
        owner: object = task
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value)

    return change


REFUSED: list[tuple[str, Change]] = [
    ("tools", lambda task: task.tools.add(name="f")),
    ("tools", _set("tool_choice.mode", chat_pb2.TOOL_MODE_REQUIRED)),
    ("tools", lambda task: task.messages[2].tool_calls.add(name="f")),
    ("tools", lambda task: task.messages.insert(1, _message(chat_pb2.ROLE_TOOL, "42"))),
    ("image", lambda task: task.messages[3].content.add().image.SetInParent()),
    ("thinking", lambda task: task.messages[2].content.append(chat_pb2.ContentPart(thinking="m"))),
    ("temperature", _set("sampling.temperature", 0.8)),
    ("temperature", _set("sampling.temperature", float("nan"))),
    ("temperature", _set("sampling.temperature", -0.1)),
    ("sampling", _set("sampling.top_p", float("inf"))),
    ("sampling", _set("sampling.logprobs", True)),
    ("sampling", _set("sampling.logprob_count", 5)),
    ("sampling", lambda task: task.sampling.logit_bias.update({7: 1.0})),
    ("turns", lambda task: task.messages.insert(1, _message(chat_pb2.ROLE_USER, "again"))),
    ("tenant", _set("tenant", "private")),
    ("privacy", _set("privacy", chat_pb2.PRIVACY_LABEL_LOCAL)),
    ("privacy", _set("privacy", chat_pb2.PRIVACY_LABEL_POOL)),
    ("privacy", _set("privacy", chat_pb2.PRIVACY_LABEL_LAN)),
    ("empty", lambda task: task.messages[3].CopyFrom(_message(chat_pb2.ROLE_USER, " \n "))),
    ("last_message", lambda task: task.messages.pop()),
    ("last_message", lambda task: task.ClearField("messages")),
    (
        "last_message",
        lambda task: task.messages.insert(0, _message(chat_pb2.ROLE_UNSPECIFIED, "?")),
    ),
]


@pytest.mark.parametrize(("reason", "change"), REFUSED)
def test_what_must_not_be_shared_is_refused_with_the_reason(reason: str, change: Change) -> None:
    with pytest.raises(NotCacheable) as caught:
        question_of(_changed(change), RULES)
    assert caught.value.reason == reason


def test_the_limit_of_temperature_is_inclusive() -> None:
    assert question_of(_task(temperature=0.7), RULES).scope


@pytest.mark.parametrize("label", [chat_pb2.PRIVACY_LABEL_PUBLIC, 0])
def test_public_prompts_are_kept(label: chat_pb2.PrivacyLabel) -> None:
    assert question_of(_changed(_set("privacy", label)), RULES).tenant == "acme"


SCOPED: list[Change] = [
    _set("tenant", "other"),
    _set("model", "demo2"),
    _set("adapter_id", "legal"),
    _set("max_tokens", 101),
    _set("sampling.repetition_penalty", 1.1),
    _set("sampling.presence_penalty", 0.5),
    _set("sampling.frequency_penalty", 0.5),
    _set("response_format.json_object", True),
    _set("response_format.json_schema", "{}"),
    lambda task: task.stop.append("END"),
    lambda task: task.stop.extend(["EN", "D"]),
    lambda task: task.messages[0].CopyFrom(_message(chat_pb2.ROLE_SYSTEM, "Be long.")),
    lambda task: task.messages[0].CopyFrom(_message(chat_pb2.ROLE_SYSTEM, "Be", " brief.")),
    lambda task: task.messages[1].CopyFrom(_message(chat_pb2.ROLE_USER, "hi")),
    lambda task: task.messages[2].CopyFrom(_message(chat_pb2.ROLE_ASSISTANT, "Hello ")),
    lambda task: task.messages[2].CopyFrom(_message(chat_pb2.ROLE_SYSTEM, "Hello")),
    lambda task: task.messages.pop(0),
    lambda task: task.messages.insert(0, _message(chat_pb2.ROLE_SYSTEM, "")),
    lambda task: setattr(task.messages[3], "name", "bob"),
    lambda task: setattr(task.messages[1], "name", "bob"),
    _set("sampling.temperature", 0.3),
]
DRAWN: list[Change] = [
    _set("sampling.temperature", 0.4),
    _set("sampling.top_p", 0.9),
    _set("sampling.top_k", 40),
    _set("sampling.min_p", 0.1),
    _set("sampling.seed", 7),
]


def test_every_field_an_answer_depends_on_makes_a_scope_of_its_own() -> None:
    greedy = [question_of(_changed(change), RULES).scope for change in [lambda task: None, *SCOPED]]
    drawn = [question_of(_changed(change, 0.5), RULES).scope for change in DRAWN]
    assert len({*greedy, *drawn}) == len(greedy) + len(drawn)


@pytest.mark.parametrize("change", [*DRAWN[1:], _set("session_id", "s1")])
def test_what_changes_no_greedy_answer_changes_no_scope(change: Change) -> None:
    assert question_of(_changed(change), RULES) == question_of(_task(), RULES)


def test_sessions_share_answers_that_are_drawn_too() -> None:
    task = _changed(_set("session_id", "s1"), 0.5)
    assert question_of(task, RULES) == question_of(_task(temperature=0.5), RULES)


@settings(deadline=None)
@given(first=st.text(max_size=6), second=st.text(max_size=6), third=st.text(max_size=6))
def test_no_two_lists_of_texts_have_one_scope(first: str, second: str, third: str) -> None:
    one, other = _task(), _task()
    one.stop.extend([first, second + third])
    other.stop.extend([first + second, third])
    same = [*one.stop] == [*other.stop]
    assert (question_of(one, RULES).scope == question_of(other, RULES).scope) == same


_BLANKS = st.text(alphabet=" \t\u00a0\u2003", min_size=1, max_size=3)
_SPOKEN = st.lists(st.text(alphabet="abcäé日5.?", min_size=1, max_size=6), min_size=1, max_size=6)


@settings(deadline=None)
@given(words=_SPOKEN, data=st.data())
def test_blanks_do_not_change_the_exact_key(words: list[str], data: st.DataObject) -> None:
    spread = data.draw(_BLANKS) + "".join(word + data.draw(_BLANKS) for word in words)
    one, other = question_of(_task(spread), RULES), question_of(_task(" ".join(words)), RULES)
    assert one.exact_key == other.exact_key


@settings(deadline=None)
@given(one=st.text(min_size=1, max_size=20), other=st.text(min_size=1, max_size=20))
def test_equal_keys_mean_equal_texts(one: str, other: str) -> None:
    one, other = f"a{one}", f"a{other}"
    keys = [question_of(_task(text), RULES).exact_key for text in (one, other)]
    assert (keys[0] == keys[1]) == (normalised(one) == normalised(other))


def test_case_and_layout_that_may_matter_stay() -> None:
    assert normalised("What is US?") != normalised("What is us?")
    assert normalised("if a:\n  b\nc") != normalised("if a:\n  b\n  c")
    assert normalised("How long is 'a  b'?") != normalised("How long is 'a b'?")
    assert normalised("Don't  wait") == "Don't wait"
    assert normalised("e\u0301te\u0301") == "été"


def test_the_key_depends_on_the_scope_and_the_text_is_not_shown() -> None:
    here, there = question_of(_task(), RULES), question_of(_changed(SCOPED[0]), RULES)
    assert here.text == there.text
    assert here.exact_key != there.exact_key
    assert "password" not in repr(here)


def test_answers_of_another_drafter_are_not_given_in_this_ones_name() -> None:
    one, other = (question_of(_task(), replace(RULES, drafted_by=name)) for name in ("a", "b"))
    assert one.scope != other.scope
    assert one.exact_key != other.exact_key
