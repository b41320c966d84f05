"""The measurement runs end to end on the shipped models, on a few prompts."""

from random import Random

import pytest
from recipe import make
from recipe.chat import question
from recipe.corpus import BenchmarkItem
from recipe.evaluate import accuracy_lines, answer_all, draft_matches, load, main, prompt_text
from recipe.tables import Tables
from recipe.tasks_easy import EASY_TASKS, capital

SHIPPED = make.DEFAULT_OUT.parent


def test_measurement_prints_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(SHIPPED / "drafter"), str(SHIPPED / "heavyweight")]
    main([*folders, "--easy", "14", "--hard", "11"])
    printed = capsys.readouterr().out
    assert "| easy | all | 14 | 1.000 | 1.000 |" in printed
    assert "| all | all | 25 |" in printed
    assert "4-token window: AUROC" in printed
    assert "tokens per pass" in printed


def test_an_answer_that_differs_by_a_character_is_wrong(tables: Tables) -> None:
    task = EASY_TASKS[1]
    exchange = capital(Random(1), tables)
    prompt = exchange.prompt[0]["content"]
    near_miss = question(prompt, exchange.answer.replace(".", "!"))
    items = [BenchmarkItem(task, exchange), BenchmarkItem(task, near_miss)]
    answers = answer_all(load(SHIPPED / "drafter"), items, tables)
    assert [answer.is_right for answer in answers] == [True, False]
    assert accuracy_lines(items, answers, answers)[2] == "| all | all | 2 | 0.500 | 0.500 |"


def test_a_model_accepts_its_own_answer_whole(tables: Tables) -> None:
    item = BenchmarkItem(EASY_TASKS[1], capital(Random(2), tables))
    drafter = load(SHIPPED / "drafter")
    answer = answer_all(drafter, [item], tables)[0]
    assert all(draft_matches(drafter, prompt_text(drafter, item, tables), answer.token_ids))
