"""Replies held to a grammar: what may come next, where a reply may end, what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from shoal_common.errors import InvalidGrammar
from shoal_engine.grammar import (
    CompiledGrammar,
    GrammarSpec,
    GrammarState,
    TokenTable,
    compile_grammar,
)
from shoal_engine.grammar_check import problem_of
from shoal_engine.sampling import NO_TOKEN, SamplingSpec, SamplingState, sample

DEMO = Path(__file__).parents[3] / "models" / "drafter"
VOCAB_SIZE = 1536
EOS = 2
# The demo models end replies with one token and documents with another.
ENDS = [0, EOS]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable.from_folder(DEMO, VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def schema(value: object) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(value))


def walk(compiled: CompiledGrammar, seed: int, length_max: int = 600) -> list[int]:
    """A reply whose every token is any that is allowed."""
    chance = random.Random(seed)
    state = compiled.state()
    ids: list[int] = []
    while len(ids) < length_max:
        allowed = state.allowed_ids()
        ids.append(int(chance.choice(allowed)))
        state.observe(ids[-1])
        if ids[-1] in ENDS:
            return ids
    raise AssertionError(f"seed {seed}: no end within {length_max} tokens")


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and 1 <= len(value["name"]) <= 12
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"red", "blue"}
    )


CASES: list[tuple[GrammarSpec, Callable[[str], bool]]] = [
    (schema(PERSON), is_person),
    (GrammarSpec("regex", "[a-f]{2,6}-[0-9]{3}"), lambda text: 6 <= len(text) <= 10),
    (
        GrammarSpec("choice", choices=("yes", "no", 'a "quoted"\nline', "größer ☃")),
        lambda text: text in ("yes", "no", 'a "quoted"\nline', "größer ☃"),
    ),
    (GrammarSpec("lark", 'start: "<" /[a-z]{1,5}/ ">"'), lambda text: text[0] + text[-1] == "<>"),
]


@pytest.mark.parametrize(("spec", "is_right"), CASES, ids=lambda value: getattr(value, "kind", ""))
def test_any_allowed_walk_ends_in_a_text_that_matches(
    table: TokenTable, tokenizer: Tokenizer, spec: GrammarSpec, is_right: Callable[[str], bool]
) -> None:
    compiled = compile_grammar(spec, table)
    for seed in range(20):
        ids = walk(compiled, seed)
        text = tokenizer.decode(ids[:-1])
        assert is_right(text), f"seed {seed}: {text!r}"


@pytest.mark.parametrize("spec", [spec for spec, _ in CASES], ids=lambda spec: spec.kind)
def test_a_state_built_from_ids_is_the_one_that_observed_them(
    table: TokenTable, spec: GrammarSpec
) -> None:
    compiled = compile_grammar(spec, table)
    ids = walk(compiled, seed=7)
    state = compiled.state()
    for count, token_id in enumerate(ids):
        rebuilt = compiled.state(ids[:count])
        np.testing.assert_array_equal(rebuilt.allowed_ids(), state.allowed_ids())
        state.observe(token_id)
    np.testing.assert_array_equal(compiled.state(ids).allowed_ids(), ENDS)


def test_a_reply_ends_only_where_it_is_complete(table: TokenTable, tokenizer: Tokenizer) -> None:
    compiled = compile_grammar(GrammarSpec("regex", "ab+"), table)
    before = compiled.state(tokenizer.encode("a").ids)
    complete = compiled.state(tokenizer.encode("abb").ids)
    assert EOS not in before.allowed_ids()
    assert EOS in complete.allowed_ids()
    assert len(complete.allowed_ids()) > 1
    with pytest.raises(InvalidGrammar, match="before it was complete"):
        before.observe(EOS)


def test_json_mode_takes_any_object_and_nothing_else(
    table: TokenTable, tokenizer: Tokenizer
) -> None:
    compiled = compile_grammar(GrammarSpec("json_object"), table)
    compiled.state([*tokenizer.encode('{"a": [1, {"b": null}], "c": "d"}').ids, EOS])
    for text in ("[1]", '{"a": 1,}', "Sure: {}"):
        with pytest.raises(InvalidGrammar):
            compiled.state([*(token for c in text for token in tokenizer.encode(c).ids), EOS])


def test_special_tokens_are_never_text(table: TokenTable, tokenizer: Tokenizer) -> None:
    allowed = set(compile_grammar(GrammarSpec("regex", "(.|\n)+"), table).state().allowed_ids())
    special = [token for token in tokenizer.get_added_tokens_decoder() if token not in ENDS]
    assert special
    assert allowed.isdisjoint(special)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (schema({"type": "integer", "minimum": 5, "maximum": 1}), r"minimum \(5\) is greater"),
        (schema({"not": {"type": "string"}}), '"not"'),
        (schema({"$ref": "#"}), "no text matches"),
        (schema({"$ref": "http://localhost/s.json"}), "not present in a registry"),
        (schema({"x-guidance": {"lenient": True}, "not": {}}), '"not"'),
        (GrammarSpec("json_schema", "{"), "not JSON"),
        (GrammarSpec("json_schema", "[]"), "must be a JSON object"),
        (GrammarSpec("json_schema", '{"items":' * 50_000), "limit is 65536"),
        (GrammarSpec("json_schema", '{"items":' * 6_000 + "{}" + "}" * 6_000), "nested too deeply"),
        (GrammarSpec("regex", "("), "unclosed group"),
        (GrammarSpec("regex", "(?=a)b"), "look-ahead"),
        (GrammarSpec("regex", r"[^\s\S]"), "no text matches"),
        (GrammarSpec("regex", "a" * 9000), "limit is 8192"),
        (GrammarSpec("choice"), "0 choices"),
        (GrammarSpec("choice", choices=("a", "")), "empty"),
        (GrammarSpec("lark", "start: nothing"), "nothing"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_the_reason(
    table: TokenTable, spec: GrammarSpec, problem: str
) -> None:
    with pytest.raises(InvalidGrammar, match=problem):
        compile_grammar(spec, table)


def test_the_checking_process_judges_and_goes_on() -> None:
    lines = [
        schema(PERSON).source(),
        schema({"type": "string", "minLength": 2, "maxLength": 1}).source(),
    ]
    answers = subprocess.run(
        [sys.executable, "-m", "shoal_engine.grammar_check", "5"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.splitlines()
    ready, good, bad = map(json.loads, answers)
    assert (ready, good) == ("", "")
    assert bad == problem_of(lines[1])
    assert "minLength (2)" in bad


def write_on(state: GrammarState, chance: random.Random) -> None:
    for _ in range(5000):
        state.observe(int(chance.choice(state.allowed_ids())))


def test_a_grammar_that_grows_beyond_its_bound_ends_with_a_reason(table: TokenTable) -> None:
    compiled = compile_grammar(
        GrammarSpec("regex", r"(.*a.{300}.*)&(.*b.{310}.*)|.*c.{290}x"), table
    )
    state = compiled.state()
    chance = random.Random(1)
    with pytest.raises(InvalidGrammar, match="too complex"):
        write_on(state, chance)
    assert compiled.is_worn


def test_byte_fallback_vocabularies_write_any_character() -> None:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *bytes_of]
    )
    tokenizer.train_from_iterator(["say hello to the world"], trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [entry for entry in saved["added_tokens"] if entry["id"] <= EOS]
    table = TokenTable(json.dumps(saved), 320, [EOS])
    compiled = compile_grammar(GrammarSpec("choice", choices=("hello ☃",)), table)
    ids = walk(compiled, seed=1)
    assert b"".join(table.tokenizer.decode_bytes([token]) for token in ids[:-1]) == (
        "hello ☃".encode()
    )


def test_models_without_what_grammars_need_say_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidGrammar, match=r"tokenizer\.json"):
        TokenTable.from_folder(tmp_path, VOCAB_SIZE, [EOS])
    text = (DEMO / "tokenizer.json").read_text()
    with pytest.raises(InvalidGrammar, match="end-of-sequence"):
        TokenTable(text, VOCAB_SIZE, [])
    with pytest.raises(InvalidGrammar, match="tokeniser"):
        TokenTable("{}", VOCAB_SIZE, [EOS])


def drawn(state: SamplingState, logits: torch.Tensor, count: int) -> list[int]:
    ids: list[int] = []
    for position in range(count):
        ids.append(sample(logits, [state], [position])[0].token_id)
        state.observe(ids[-1])
    return ids


@pytest.mark.parametrize(
    "spec",
    [
        SamplingSpec(),
        SamplingSpec(temperature=1.5, seed=3),
        SamplingSpec(temperature=1.0, top_k=2, seed=4),
        SamplingSpec(temperature=1.0, min_p=0.5, top_p=0.5, seed=5),
        SamplingSpec(repetition_penalty=1.3, frequency_penalty=0.5),
    ],
)
def test_only_allowed_tokens_are_drawn_and_logprobs_stay_raw(
    table: TokenTable, tokenizer: Tokenizer, spec: SamplingSpec
) -> None:
    """The likeliest tokens by far are forbidden ones, which no filter may let in."""
    compiled = compile_grammar(GrammarSpec("regex", "(cat|dog|[0-9]){3}"), table)
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    logits[0, tokenizer.encode("hello").ids] = 50.0
    ids = drawn(SamplingState(spec, constraint=compiled.state()), logits, 12)
    text = tokenizer.decode(ids)
    compiled.state(ids)
    assert text
    plain = sample(logits, [SamplingState(SamplingSpec(logprobs=0))], [0])[0]
    assert plain.logprob is not None
    raw = SamplingState(SamplingSpec(logprobs=0), constraint=compiled.state())
    chosen = sample(logits, [raw], [0])[0]
    assert chosen.logprob == float(torch.log_softmax(logits[0].double(), 0)[chosen.token_id])


def test_neighbours_without_a_grammar_draw_what_they_always_drew(table: TokenTable) -> None:
    compiled = compile_grammar(schema(PERSON), table)
    logits = torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    specs = [SamplingSpec(), SamplingSpec(temperature=1.0, seed=1), SamplingSpec(temperature=0.7)]
    free = [SamplingState(spec) for spec in specs]
    alone = sample(logits, free, [5, 6, 7])
    free[1] = SamplingState(specs[1], constraint=compiled.state())
    beside = sample(logits, free, [5, 6, 7])
    assert (beside[0], beside[2]) == (alone[0], alone[2])


def test_near_ties_are_those_among_the_allowed(table: TokenTable, tokenizer: Tokenizer) -> None:
    compiled = compile_grammar(GrammarSpec("choice", choices=("a", "b")), table)
    (first,), (second,) = tokenizer.encode("a").ids, tokenizer.encode("b").ids
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, first] = 1.0
    state = SamplingState(SamplingSpec(), constraint=compiled.state())
    assert not sample(logits, [state], [0])[0].near_tie
    logits[0, second] = 1.0 + 1e-6
    assert sample(logits, [state], [0])[0].near_tie


class GivesUp:
    """A constraint that cannot tell what may come next."""

    def allowed_ids(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        raise InvalidGrammar("too costly")

    def observe(self, token_id: int) -> None:
        raise AssertionError("nothing was drawn")


def test_a_constraint_that_gives_up_ends_its_own_row_only() -> None:
    logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(3))
    states = [SamplingState(SamplingSpec()), SamplingState(SamplingSpec(), constraint=GivesUp())]
    kept, lost = sample(logits, states, [0, 0])
    assert kept.token_id == int(logits[0].argmax())
    assert kept.failure is None
    assert lost.token_id == NO_TOKEN
    assert isinstance(lost.failure, InvalidGrammar)
