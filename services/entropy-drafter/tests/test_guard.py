"""Two wordings share an answer only when nothing is left over on either side."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cache_safety.pairs import near_misses, paraphrases
from shoal_entropy_drafter.guard import LENGTH_MAX, REASONS, difference

SAME = [
    ("Please tell me how to reset my password.", "how can I reset my password?"),
    ("What's the capital of France?", "what is the capital of france"),
    ("Could you tell me what the capital of France is?", "What is the capital of France?"),
    ("How do I merge cells in Excel?", "In Excel, how do I merge cells?"),
    ("How do I get from Lisbon to Porto?", "How do I get to Porto from Lisbon?"),
    ("Where can I buy 1,000 nails?", "Where can I purchase one thousand nails?"),
    ("Who won World War II?", "Who won World War 2?"),
    ("Is 5 km far?", "Is 5 kilometers far?"),
    ("Does it cost $5?", "Does it cost 5 dollars?"),
    ("Explain how photosynthesis works.", "How does photosynthesis work?"),
    ("HOW DO I OPEN A JAR?", "how do I open a jar"),
    ("Can I eat “raw” eggs?", 'Can I eat "raw" eggs?'),
    ("Why don’t cats swim?", "Why don't cats swim?"),
    ("How do I turn off Bluetooth?", "how to switch off bluetooth"),
    ("Write a haiku.", "Could you please write a haiku? Thank you!"),
    ("Who was the first pope?", "Who was the 1st pope?"),
    ("How do I begin learning Greek?", "How to start learning Greek"),
    ("Tell me how I can reset it", "How do I reset it?"),
    ("Do you know where the station is?", "Where is the station?"),
    ("Où est la gare ?", "où est la gare ?"),
]

# (one, other, what is said of them; "" where any reason will do)
DIFFERENT = [
    ("What is new in Python 3.10?", "What is new in Python 3.1?", "number"),
    ("What is 5 minus 3?", "What is 3 minus 5?", ""),
    ("Is -5 cold?", "Is 5 cold?", "number"),
    ("Is 1.5 enough?", "Is 15 enough?", "number"),
    ("What happened on 2024-01-05?", "What happened on 2024-05-01?", "number"),
    ("Meet at 10:30 or not?", "Meet at 10:20 or not?", "number"),
    ("Is twenty-one prime?", "Is twenty-two prime?", "number"),
    ("Who was Louis XIV?", "Who was Louis XV?", "number"),
    ("Who was the first pope?", "Who was the third pope?", "number"),
    ("Is nineteen eighty four good?", "Is 1984 good?", ""),
    ("Is 5 km far?", "Is 5 mi far?", "unit"),
    ("Is 5 GB enough?", "Is 5 Gb enough?", "unit"),
    ("Is it $5?", "Is it €5?", "unit"),
    ("Is it 20 °C?", "Is it 20 °F?", "unit"),
    ("Is 5% much?", "Is 5 much?", "unit"),
    ('What does "foo" do?', 'What does "bar" do?', "quoted"),
    ("What does `a  b` print?", "What does `a b` print?", "quoted"),
    ("What does getName do?", "What does getname do?", "quoted"),
    ("Open https://a.example/B", "Open https://a.example/b", "quoted"),
    ("Read /etc/hosts please", "Read /etc/passwd please", "quoted"),
    ("Mail a@b.example", "Mail c@b.example", "quoted"),
    ("What is C++?", "What is C#?", "quoted"),
    ("Is it safe?", "Is it not safe?", "negation"),
    ("Is it safe?", "Isn't it safe?", "negation"),
    ("How do I enable sync?", "How do I disable sync?", "negation"),
    ("How do I turn on sync?", "How do I turn off sync?", "negation"),
    ("Can I cook with oil?", "Can I cook without oil?", "negation"),
    ("What is the min of a and b?", "What is the max of a and b?", "negation"),
    ("Say it in French", "Say it in German", "language"),
    ("Explain rain.", "Explain rain auf Deutsch.", "language"),
    ("Where is Rome?", "Wo ist Rome?", "language"),  # codespell:ignore
    ("Who is Anna Bell?", "Who is Anna Ball?", "name"),
    ("How do I clean Windows?", "How do I clean windows?", "name"),
    ("How many live in the US?", "How many live in the us?", "name"),
    ("How do I fly from Rome to Oslo?", "How do I fly from Oslo to Rome?", "words"),
    ("Convert km to miles", "Convert miles to km", "words"),
    (
        "How do I get from the airport in Rome to the hotel in Oslo?",
        "How do I get from the airport in Oslo to the hotel in Rome?",
        "words",
    ),
    ("Can Alice sue Bob?", "Can Bob sue Alice?", "words"),
    ("Who is the president?", "Who was the president?", "words"),
    ("What is time?", "What is the time?", "words"),
    ("How do I feel?", "How can I feel?", "words"),
    ("How do you work?", "How do I work?", "words"),
    ("How should I invest?", "How do I invest?", "words"),
    ("Can I go?", "Must I go?", "words"),
    ("Name a city.", "Name cities.", "words"),
    ("How do I beat few people?", "How do I beat a few people?", "words"),
    ("How do I treat vitamin a deficiency?", "How do I treat vitamin deficiency?", "words"),
    ("Translate please into French", "Translate into French", "words"),
    ("How do you say please?", "How do you say?", "words"),
    ("It rains.", "It rains?", "words"),
    ("It rains, thanks.", "It rains? Thanks.", "words"),
    ("Was ist Masse?", "Was ist Maße?", "name"),  # codespell:ignore
    ("Tell me what dogs that can swim eat", "What can dogs that swim eat?", "words"),
    ("How do I find my husband?", "How do I find a husband?", "words"),
    ("What does begin do in Ruby?", "What does start do in Ruby?", "words"),
    (
        "What is the difference between start and begin?",
        "What is the difference between start and commence?",
        "words",
    ),
    ("Who's left?", "Who is left?", "words"),
    ("HOW DO I CLEAN WINDOWS?", "How do I clean windows?", "quoted"),
    ("Hello, what does it mean?", "What does it mean?", "words"),
    ("How do you say hello, thanks?", "How do you say hello?", "words"),
    ("Do you know who you are?", "Who are you?", "words"),
    ("Do you know how I feel?", "How do I feel?", "words"),
    ("How do I take the part?", "How do I take part?", "words"),
    ("Remove the file", "Delete the file", "words"),
    ("Help me write an essay", "How to write an essay", "words"),
    ("Can you swim?", "Swim", "words"),
    ("Let's eat, grandma", "Let's eat grandma", "words"),
    ("Что такое любовь?", "Что такое война?", "words"),
    ("東京はどこですか", "京都はどこですか", "words"),
    ("Run:\nif a:\n  b\nc", "Run:\nif a:\n  b\n  c", "quoted"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_wordings_of_one_question_are_the_same(one: str, other: str) -> None:
    assert difference(one, other) == ""


@pytest.mark.parametrize(("one", "other", "reason"), DIFFERENT)
def test_other_questions_are_told_apart_and_the_reason_is_said(
    one: str, other: str, reason: str
) -> None:
    said = difference(one, other)
    assert said
    assert said == reason or not reason
    assert difference(other, one) == said


_VOCABULARY = """
how do does I can not don't the a in from to Paris Oslo us US what is was please thanks , . ? ! 5
5km -5 3.10 one twenty hundred " ' ` “ ” http://x a@b It's café 東京 не ‘ — ( ) and could you tell
me explain hello when if works so II World
"""
_WORDS = st.sampled_from(_VOCABULARY.split())
_TEXTS = st.one_of(st.lists(_WORDS, max_size=14).map(" ".join), st.text(max_size=40))


@given(one=_TEXTS, other=_TEXTS)
@settings(max_examples=300, deadline=None)
def test_difference_is_symmetric_and_of_the_closed_set(one: str, other: str) -> None:
    said = difference(one, other)
    assert said == difference(other, one)
    assert said in ("", *REASONS)


@given(text=_TEXTS)
@settings(max_examples=150, deadline=None)
def test_a_text_is_the_same_as_itself_however_it_is_spaced(text: str) -> None:
    assert difference(text, text) == ""
    assert difference(f"  {text}\t", text) == ""


_PIECES = (
    [*"-(\u0301", "a.", "a+", "a@", '"', "“", "'", "a'", "‘a", "1,", "1.", "a-", "$1", "x`", ", "]
    + [f"{words} " for words in ("one", "hi,", "please", "can you", "to a from b", "hundred", "is")]
    + ["don't ", "thanks. ", "so, "]
)


@given(
    piece=st.sampled_from(_PIECES),
    tail=st.text(max_size=3),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.timeout(30)
def test_long_odd_texts_are_compared_in_time(piece: str, tail: str) -> None:
    text = (piece * LENGTH_MAX)[: LENGTH_MAX - 10]
    # A pattern that backtracks would not come back before the test's time is up.
    assert difference(text + tail, text + "x") in ("", *REASONS)


def test_texts_beyond_the_limit_are_equal_or_different() -> None:
    long = "word " * LENGTH_MAX
    assert difference(long, long + " ") == ""
    assert difference(long, long + "please") == "length"


def test_no_near_miss_of_the_safety_set_passes() -> None:
    passed = [pair for pair in near_misses(200) if not difference(pair.one, pair.other)]
    assert passed == []


def test_the_guard_is_of_use_for_paraphrases() -> None:
    pairs = paraphrases(200)
    assert sum(not difference(pair.one, pair.other) for pair in pairs) >= 0.4 * len(pairs)
