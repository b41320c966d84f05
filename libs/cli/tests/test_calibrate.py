"""`shoal calibrate` against a gateway that plays both models."""

import asyncio
import json
import os
import stat
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from typer.testing import CliRunner

from shoal_cli.calibrated_config import write_options
from shoal_cli.calibration_answers import AnswerBook, Asking, Collected, Collector
from shoal_cli.calibration_run import Calibrated, Options, read_sets, run
from shoal_cli.calibration_target import Target, find_target, parameter_count, parameters_of
from shoal_cli.calibration_view import rendered
from shoal_cli.client import GatewayClient
from shoal_cli.errors import BadOptions, GatewayFailed
from shoal_cli.main import app
from shoal_entropy_drafter.calibration.cases import Answered
from shoal_entropy_drafter.calibration.errors import PromptsBroken
from shoal_entropy_drafter.calibration.prompts import LabelledPrompt, read_prompts
from shoal_entropy_drafter.calibration.replay import Judging
from shoal_entropy_drafter.entropy import Entropy

ROOT = Path(__file__).resolve().parents[3]
COUNT = 64


def question(number: int, set_name: str = "calibrate") -> dict[str, Any]:
    message = {"role": "user", "content": f"question {number}"}
    return {"id": str(number), "messages": [message], "answer": f"answer {number}", "set": set_name}


def write_questions(path: Path, numbers: range, set_name: str = "calibrate") -> Path:
    path.write_text("".join(json.dumps(question(n, set_name)) + "\n" for n in numbers))
    return path


class Gateway:
    """Every fourth question is hard: the draft of it is wrong and in doubt."""

    def __init__(self) -> None:
        self.drafter: dict[str, Any] = {
            "kind": "fleet", "model": "small", "candidate_count": 20, "window_size": 4,
            "early_exit_count": 4, "statistic": "mean", "estimate": "renormalised",
        }  # fmt: skip
        self.told: dict[str, Any] = {
            "cascade_model": "cascade", "heavyweight_model": "large", "drafter": self.drafter,
            "problem": None,
        }  # fmt: skip
        self.told_status = 200
        self.asked: list[tuple[str, str]] = []
        self.failures: dict[str, list[int]] = {}
        self.url = ""

    async def describe(self, request: web.Request) -> web.Response:
        return web.json_response(self.told, status=self.told_status)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in ("small", "large", "cascade")]})

    async def draft(self, request: web.Request) -> web.Response:
        body = await request.json()
        number = self._noted("draft", body)
        if self._fails(f"draft {number}"):
            return self._error(503)
        is_hard = number % 4 == 0
        bits = 2.0 + number / 1000 if is_hard else number / 1000
        token = {
            "renormalised_bits": bits, "lower_bits": bits, "upper_bits": bits,
            "margin": 1 - bits / 4, "is_known": True,
        }  # fmt: skip
        return web.json_response(
            {
                "text": "nonsense" if is_hard else f"answer {number}",
                "tool_calls": None,
                "finish_reason": "stop",
                "tokens": [token] * 5,
                "usage": {"prompt_tokens": 9, "completion_tokens": 6},
                "model": "small",
            }
        )

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["model"] == "large"
        assert body["temperature"] == 0
        number = self._noted("chat", body)
        if self._fails(f"chat {number}"):
            return self._error(429, {"Retry-After": "7"})
        message = {"role": "assistant", "content": f"answer {number}"}
        usage = {"prompt_tokens": 9, "completion_tokens": 6}
        return web.json_response({"choices": [{"message": message}], "usage": usage})

    def _noted(self, kind: str, body: dict[str, Any]) -> int:
        number = int(body["messages"][-1]["content"].split()[-1])
        self.asked.append((kind, str(number)))
        return number

    def _fails(self, what: str) -> bool:
        left = self.failures.get(what, [])
        return bool(left and left.pop())

    def _error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        error = {"error": {"message": "not now"}}
        return web.json_response(error, status=status, headers=headers)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    fake, application = Gateway(), web.Application()
    application.router.add_get("/api/admin/cascade", fake.describe)
    application.router.add_post("/api/admin/cascade/draft", fake.draft)
    application.router.add_post("/v1/chat/completions", fake.chat)
    application.router.add_get("/v1/models", fake.models)
    async with TestServer(application) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@contextmanager
def uncounted(what: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        out=tmp_path / "out",
        prompts=(write_questions(tmp_path / "prompts.jsonl", range(1, COUNT + 1)),),
        test=write_questions(tmp_path / "test.jsonl", range(200, 252), "test"),
        parameters="1M,10M",
        has_grid=False,
        concurrency=4,
        config=tmp_path / "config.toml",
    )


async def calibrated(gateway: Gateway, options: Options) -> Calibrated:
    return await run(GatewayClient(gateway.url, "key"), options, uncounted)


async def test_a_threshold_between_doubt_and_certainty_goes_into_the_config(
    gateway: Gateway, options: Options
) -> None:
    assert options.config is not None
    options.config.write_text("# mine\n[gateway]\nport = 1\n\n[entropy_drafter]\ncache_ttl_s = 9\n")
    done = await calibrated(gateway, options)
    told = done.as_json()
    assert told["auroc"] == 1.0
    assert 0.12 < told["threshold"] < 2.0
    # Drafts of 6 tokens or, given up, 4, at a tenth each; a quarter is answered again.
    assert told["calibrate"]["at_threshold"]["cost"] == pytest.approx(
        0.1 * 22 / 24 + 0.25, abs=1e-6
    )
    assert told["cost_at_99"] <= told["calibrate"]["at_threshold"]["cost"]
    assert told["precision"] == told["recall"] == 1.0
    assert (told["drafter"], told["heavyweight"], told["candidate_count"]) == ("small", "large", 20)
    assert told["test"]["prompt_count"] == 52
    assert done.picture is not None
    assert done.picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(done.json_file.read_text())["curves"]["test"]
    text = options.config.read_text()
    assert text.startswith("# mine\n[gateway]\nport = 1\n")
    assert tomllib.loads(text)["entropy_drafter"] == {
        "cache_ttl_s": 9, "threshold_bits": told["threshold"], "window_size": 4,
        "early_exit_count": 4, "top_logprobs": 20, "statistic": "mean",
        "entropy_estimate": "renormalised", "calibrated_for": "small",
    }  # fmt: skip
    assert done.backup is not None
    assert "threshold_bits" not in done.backup.read_text()


def shown(done: Calibrated, options: Options) -> str:
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for each in rendered(done, options):
        console.print(each)
    console.file.close()
    return console.export_text()


async def test_people_read_figures_files_and_what_to_do(gateway: Gateway, options: Options) -> None:
    done = await calibrated(gateway, replace(options, has_grid=True, window_size=4, config=None))
    text = shown(done, options)
    for part in ("AUROC", "least cost at 99 %", "knee", "the best ways to judge", "left alone"):
        assert part in text
    assert str(done.json_file) in text.replace("\n", "")
    assert options.config is not None
    assert not options.config.exists()
    told = replace(done, config=options.config, backup=options.config.with_name("config.toml.bak"))
    assert "restart the fleet" in shown(told, options)


async def collect(gateway: Gateway, folder: Path, numbers: range, pauses: list[float]) -> Collected:
    """Answers to some questions, without waiting where it would wait."""

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        await asyncio.sleep(0)

    prompts = read_prompts(write_questions(folder / "few.jsonl", numbers))
    asking = Asking("small", "large", concurrency=3)
    with AnswerBook(folder / "answers.jsonl") as book:
        async with GatewayClient(gateway.url, "key") as client:
            return await Collector(client, asking, book, sleep=sleep).collect(prompts)


async def test_a_second_run_asks_nothing_again(gateway: Gateway, tmp_path: Path) -> None:
    first = await collect(gateway, tmp_path, range(1, 9), [])
    assert len(gateway.asked) == 16
    again = await collect(gateway, tmp_path, range(1, 9), [])
    assert len(gateway.asked) == 16
    assert {key: each.entropies for key, each in again.drafts.items()} == {
        key: each.entropies for key, each in first.drafts.items()
    }
    assert again.heavies.keys() == first.heavies.keys()


async def test_a_run_that_was_stopped_goes_on(gateway: Gateway, tmp_path: Path) -> None:
    await collect(gateway, tmp_path, range(1, 5), [])
    answers = tmp_path / "answers.jsonl"
    # The last line is cut off in the middle.
    answers.write_text(answers.read_text()[:-30])
    for expected in (1, 0):
        gateway.asked.clear()
        collected = await collect(gateway, tmp_path, range(1, 5), [])
        assert len(gateway.asked) == expected
        assert len(collected.drafts) == len(collected.heavies) == 4


async def test_fresh_asks_all_of_it_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerBook(path) as book:
        book.put("a", Answered("x", (), 2, 0.5))
    with AnswerBook(path, is_fresh=True) as book:
        assert book.get("a") is None
    with AnswerBook(path) as book:
        assert book.get("a") is None


async def test_what_passes_is_tried_again_after_the_wait_it_asked_for(
    gateway: Gateway, tmp_path: Path
) -> None:
    gateway.failures = {"chat 1": [1], "draft 2": [1, 1]}
    pauses: list[float] = []
    collected = await collect(gateway, tmp_path, range(1, 4), pauses)
    assert len(collected.drafts) == len(collected.heavies) == 3
    assert not collected.failures
    assert sorted(pauses) == [1.0, 2.0, 7.0]


async def test_what_does_not_pass_is_reported_not_judged(gateway: Gateway, tmp_path: Path) -> None:
    gateway.failures = {"draft 2": [1] * 9}
    collected = await collect(gateway, tmp_path, range(1, 4), [])
    [failure] = collected.failures
    assert (failure.prompt_id, failure.role) == ("2", "drafter")
    assert "503" in failure.detail
    assert len(collected.drafts) == 2


async def test_a_gateway_that_always_fails_is_left_soon(gateway: Gateway, tmp_path: Path) -> None:
    gateway.failures = {f"draft {n}": [1] * 9 for n in range(99)}
    gateway.failures |= {f"chat {n}": [1] * 9 for n in range(99)}
    with pytest.raises(GatewayFailed, match=r"503|429"):
        await collect(gateway, tmp_path, range(1, 60), [])
    assert len(gateway.asked) < 60


async def test_few_failures_are_noted_and_many_refused(
    gateway: Gateway, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_cli.calibration_answers.TRIES_MAX", 1)
    gateway.failures = {"draft 9": [1] * 9}
    done = await calibrated(gateway, options)
    assert "without 1 prompt that could not be answered" in done.notes[0]
    assert done.calibration.calibrate.case_count == COUNT - 1
    gateway.failures = {f"chat {n}": [1] for n in range(1, 60, 5)}
    with pytest.raises(GatewayFailed, match="12 of 116 prompts could not be answered"):
        await calibrated(gateway, replace(options, is_fresh=True))


@pytest.mark.parametrize(
    ("status", "says"),
    [(404, "no cascade to calibrate"), (403, "admin scope"), (503, "answered 503")],
)
async def test_a_gateway_that_tells_nothing_says_what_to_do(
    gateway: Gateway, options: Options, status: int, says: str
) -> None:
    gateway.told_status = status
    with pytest.raises(GatewayFailed, match=says):
        await calibrated(gateway, options)


@pytest.mark.parametrize(
    ("drafter", "problem", "says"),
    [
        (None, "nobody drafts here", r"no cascade to calibrate.*nobody drafts here"),
        ({"kind": "none", "model": None}, None, r"drafter_provider.*only embeds"),
    ],
)
async def test_a_gateway_without_a_drafter_is_refused(
    gateway: Gateway, options: Options, drafter: Any, problem: str | None, says: str
) -> None:
    gateway.told |= {"drafter": drafter, "problem": problem}
    with pytest.raises(GatewayFailed, match=says):
        await calibrated(gateway, options)


async def test_who_takes_over_is_named_or_found(gateway: Gateway) -> None:
    async with GatewayClient(gateway.url, "key") as client:
        assert (await find_target(client, "small")).heavyweight == "small"
        with pytest.raises(GatewayFailed, match=r"not serve 'huge'.* serves: small, large"):
            await find_target(client, "huge")
        gateway.told["heavyweight_model"] = ""
        target = await find_target(client, None)
    assert (target.heavyweight, target.current) == ("large", Judging(4, 4, 20))


def test_sets_by_file_by_mark_and_by_halves(tmp_path: Path) -> None:
    whole = write_questions(tmp_path / "a.jsonl", range(120))
    marked = tmp_path / "b.jsonl"
    lines = [question(n, "test" if n < 30 else "calibrate") for n in range(120)]
    marked.write_text("\n".join(map(json.dumps, lines)))
    halves = read_sets(Options(tmp_path, (whole,)))
    assert len(halves.calibrate) + len(halves.test) == 120
    assert 40 < len(halves.test) < 80
    by_mark = read_sets(Options(tmp_path, (marked,)))
    assert (len(by_mark.calibrate), len(by_mark.test)) == (90, 30)
    few = write_questions(tmp_path / "c.jsonl", range(60))
    assert read_sets(Options(tmp_path, (few,))).test == ()
    shipped = read_sets(Options(tmp_path))
    assert (len(shipped.calibrate), len(shipped.test)) == (518, 518)
    assert len(shipped.questions) < 1036


def test_too_few_prompts_and_shared_ids_are_refused(tmp_path: Path) -> None:
    few = write_questions(tmp_path / "few.jsonl", range(49))
    with pytest.raises(BadOptions, match="49 prompts are too few"):
        read_sets(Options(tmp_path, (few,)))
    whole = write_questions(tmp_path / "whole.jsonl", range(60))
    with pytest.raises(BadOptions, match="have the id '0'"):
        read_sets(Options(tmp_path, (whole, few)))


DEMO = Target("drafter", "heavyweight")


def test_parameters_from_numbers_folders_and_the_demo_models() -> None:
    assert parameters_of("0.8M, 5.1m", DEMO).ratio == pytest.approx(0.8 / 5.1)
    assert parameters_of("8b,1T", DEMO).ratio == pytest.approx(0.008)
    demo = parameters_of(None, DEMO)
    assert (demo.drafter, demo.heavyweight) == (787_328, 5_115_136)
    mixed = parameters_of(f"{ROOT / 'models' / 'drafter'},5115136", DEMO)
    assert mixed.ratio == pytest.approx(demo.ratio)


@pytest.mark.parametrize("said", ["5M", "1,2,3", "0,5M", "-1,5M", "tiny,large", "1e,2"])
def test_other_parameters_are_refused(said: str) -> None:
    with pytest.raises(BadOptions):
        parameters_of(said, DEMO)


def test_unknown_models_need_parameters(tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match="--parameters DRAFTER,HEAVYWEIGHT"):
        parameters_of(None, Target("gpt-small", "gpt-large"))
    assert parameter_count(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadOptions, match="not a safetensors file"):
        parameter_count(tmp_path)


def test_config_is_made_where_there_is_none_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.toml"
    assert write_options(path, {"threshold_bits": 0.8}) is None
    assert tomllib.loads(path.read_text()) == {"entropy_drafter": {"threshold_bits": 0.8}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    assert write_options(path, {"threshold_bits": 0.9}) == path.with_name("config.toml.bak")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "config.toml", "config.toml.bak",
    ]  # fmt: skip


def test_config_behind_a_link_is_changed_where_it_lies(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("entropy_drafter = { window_size = 2 }\n")
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    write_options(link, {"window_size": 4})
    assert link.is_symlink()
    assert tomllib.loads(real.read_text())["entropy_drafter"]["window_size"] == 4


@pytest.mark.parametrize("text", ["[entropy_drafter\n", "entropy_drafter = 3\n"])
def test_a_config_that_cannot_be_changed_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(BadOptions, match="cannot be changed"):
        write_options(path, {"window_size": 4})
    assert path.read_text() == text


def test_a_book_keeps_answers_over_a_stop(tmp_path: Path) -> None:
    answer = Answered("x", (), 2, 0.5, (Entropy(1.0, 2.0, 1.5, 0.25, True),))
    with AnswerBook(tmp_path / "answers.jsonl") as book:
        book.put("a", answer)
    with AnswerBook(tmp_path / "answers.jsonl") as book:
        assert book.get("a") == answer
        assert book.get("b") is None


def test_keys_of_answers_tell_models_lengths_and_questions_apart() -> None:
    one = LabelledPrompt("a", ({"role": "user", "content": "x"},), "y")
    other = LabelledPrompt("a", ({"role": "user", "content": "z"},), "y")
    plain = Asking("small", "large")
    keys = [
        plain.key("drafter", one), plain.key("heavyweight", one), plain.key("drafter", other),
        Asking("other", "large").key("drafter", one),
        Asking("small", "large", 9).key("drafter", one),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert Asking("small", "other").key("drafter", one) == keys[0]


def test_the_command_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("{}\n")
    result = CliRunner().invoke(app, ["calibrate", "-P", str(path), "-d", str(tmp_path)])
    assert isinstance(result.exception, PromptsBroken)
    assert f"{path}:1: 'answer' is missing" in str(result.exception)


def test_the_command_wants_a_whole_url(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate", "--url", "localhost:1", "-d", str(tmp_path)])
    assert isinstance(result.exception, BadOptions)
    assert "starts with http://" in str(result.exception)
