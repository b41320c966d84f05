"""The corpus is a function of its seed, and the benchmark stays out of training."""

from random import Random

import pytest
from recipe.chat import Exchange, assistant, question, user
from recipe.corpus import DRAFT_MIX, ECHO_MIX, HEAVY_MIX, TASKS, Mix, benchmark, conversation
from recipe.split import HELD_OUT_ONE_IN, is_held_out, is_trainable, prompt_key
from recipe.tables import Tables
from recipe.task import Level, Task


def draw(seed: int, tables: Tables, mix: Mix, chat_count: int) -> list[Exchange]:
    rng = Random(seed)
    return [conversation(rng, tables, mix) for _ in range(chat_count)]


def test_same_seed_draws_the_same_conversations(tables: Tables) -> None:
    assert draw(7, tables, HEAVY_MIX, 200) == draw(7, tables, HEAVY_MIX, 200)
    assert draw(7, tables, HEAVY_MIX, 200) != draw(8, tables, HEAVY_MIX, 200)


@pytest.mark.parametrize("mix", [HEAVY_MIX, DRAFT_MIX, ECHO_MIX], ids=["heavy", "draft", "echo"])
def test_training_never_asks_a_benchmark_question(tables: Tables, mix: Mix) -> None:
    prompts = [item.exchange.prompt for seed in range(4) for item in benchmark(seed, tables)]
    reserved = {prompt[0]["content"] for prompt in prompts if len(prompt) == 1}
    asked = {
        message["content"]
        for chat in draw(11, tables, mix, 3000)
        for message in chat.messages
        if message["role"] == "user"
    }
    assert len(reserved) > 1000
    assert not reserved & asked


def test_an_exchange_with_a_held_out_beginning_is_not_trained_on() -> None:
    number = next(n for n in range(1000) if is_held_out([user(f"Add {n} and 1.")]))
    opening = question(f"Add {number} and 1.", f"{number} + 1 = {number + 1}.")
    longer = Exchange((*opening.messages, user("Thanks!"), assistant("You are welcome!")))
    assert not is_trainable(opening)
    assert not is_trainable(longer)


def test_held_out_share_is_about_one_in_twelve() -> None:
    held = sum(is_held_out([user(f"Add {n} and {n}.")]) for n in range(6000))
    assert held == pytest.approx(6000 / HELD_OUT_ONE_IN, rel=0.15)


def test_prompt_key_never_changes() -> None:
    # The shipped weights were trained behind these keys.
    assert prompt_key([user("What is the capital of France?")]) == KEY_OF_FRANCE


KEY_OF_FRANCE = 3844454874


def test_benchmark_prompts_are_held_out_unique_and_counted(tables: Tables) -> None:
    items = benchmark(518, tables)
    assert all(is_held_out(item.exchange.prompt) for item in items)
    assert len({prompt_key(item.exchange.prompt) for item in items}) == 518
    assert sum(item.task.level is Level.EASY for item in items) == 300
    assert {item.task for item in items} == set(TASKS)


def test_benchmark_of_a_seed_is_fixed_and_others_differ(tables: Tables) -> None:
    assert benchmark(1, tables, 28, 22) == benchmark(1, tables, 28, 22)
    assert benchmark(1, tables, 28, 22) != benchmark(2, tables, 28, 22)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_ends_in_one_line_or_a_call_by_the_assistant(task: Task, tables: Tables) -> None:
    rng = Random(task.name)
    for _ in range(50):
        exchange = task.make(rng, tables)
        assert exchange.messages[0]["role"] == "user"
        assert exchange.messages[-1]["role"] == "assistant"
        assert "\n" not in exchange.answer or exchange.answer.startswith("<tool_call>")
        assert "{" not in exchange.messages[0]["content"]


def test_arithmetic_answers_are_right(tables: Tables) -> None:
    rng = Random(3)
    by_name = {task.name: task for task in TASKS}
    for _ in range(200):
        sum_text = by_name["add_three_digits"].make(rng, tables).answer
        left, _, right = sum_text.partition(": ")
        a, b = (int(number) for number in left.split(" + "))
        assert right.endswith(f"So {a + b}.")
        product = by_name["multiply"].make(rng, tables).answer.rstrip(".")
        factors, _, value = product.partition(" = ")
        x, y = (int(number) for number in factors.split(" x "))
        assert int(value) == x * y


def test_the_drafters_mix_is_nearly_all_easy(tables: Tables) -> None:
    easy = sum(DRAFT_MIX.weight(task) for task in TASKS if task.level is Level.EASY)
    hard = sum(DRAFT_MIX.weight(task) for task in TASKS if task.level is Level.HARD)
    assert hard / (easy + hard) < 0.05
