"""Keys, models and health of providers over HTTP."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from shoal_gateway.providers.testing import (
    FakeProvider,
    anthropic_stream,
    anthropic_text,
    fake_provider,
    openai_stream,
    whole,
)

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]


@dataclass
class Admin:
    """A gateway without any key, one provider behind it, and an admin in front."""

    http: aiohttp.ClientSession
    provider: FakeProvider
    fleet: Any

    async def get(self, path: str) -> Any:
        async with self.http.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def send(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        async with self.http.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def source_of(self, provider: str) -> Any:
        shown = await self.get("/api/admin/providers")
        (found,) = [entry for entry in shown["providers"] if entry["name"] == provider]
        assert found["configured"] is (found["source"] is not None)
        return found["source"]

    async def chat(self, model: str) -> int:
        body = {"model": model, "messages": HELLO, "max_tokens": 500}
        return (await self.send("POST", "/v1/chat/completions", body))[0]


@pytest.fixture
def start_admin(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Admin]:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(fake_provider())
            urls = dict.fromkeys(("openai", "anthropic", "groq", "deepseek"), provider.url)
            fleet = await stack.enter_async_context(
                start_fleet(provider_base_urls=urls, **settings)
            )
            http = await stack.enter_async_context(
                aiohttp.ClientSession(fleet.url, headers={"Authorization": f"Bearer {KEY}"})
            )
            yield Admin(http, provider, fleet)

    return start


@pytest.fixture
async def admin(start_admin: Any) -> AsyncIterator[Admin]:
    async with start_admin() as admin:
        yield admin


async def test_a_key_is_set_replaced_and_taken_away(admin: Admin, tmp_path: Path) -> None:
    admin.provider.says(openai_stream("hi"))
    assert await admin.source_of("openai") is None
    assert await admin.chat("gpt-4o") == 404
    for key in ("sk-first-secret", "sk-second-secret"):
        status, shown = await admin.send("PUT", "/api/admin/providers", {"openai": key})
        assert status == 200
        assert key not in str(shown)
        assert await admin.source_of("openai") == "stored"
        assert await admin.chat("gpt-4o") == 200
        assert admin.provider.seen[-1].headers["Authorization"] == f"Bearer {key}"
    secret = tmp_path / "provider_keys.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    on_disk = b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))
    assert b"provider_keys" in on_disk
    assert b"sk-second-secret" not in on_disk
    assert (await admin.send("PUT", "/api/admin/providers", {"openai_api_key": None}))[0] == 200
    assert await admin.chat("gpt-4o") == 404


async def test_stored_keys_outlive_the_gateway_and_win(
    start_admin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=from-file\nDEEPSEEK_API_KEY=from-file\n")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "from-environment")
    async with start_admin() as admin:
        assert await admin.source_of("openai") == ".env"
        assert await admin.source_of("deepseek") == "environment"
        assert await admin.source_of("groq") is None
        await admin.send("PUT", "/api/admin/providers", {"openai": "kept", "deepseek": "kept"})
    async with start_admin() as admin:
        admin.provider.says(openai_stream("hi"))
        assert await admin.source_of("deepseek") == "stored"
        assert await admin.chat("gpt-4o") == 200
        assert admin.provider.seen[0].headers["Authorization"] == "Bearer kept"
    (tmp_path / "provider_keys.key").write_bytes(b"x" * 32)
    async with start_admin() as admin:
        # What cannot be opened counts as missing.
        assert await admin.source_of("deepseek") == "environment"


async def test_wrong_keys_are_refused_by_name(admin: Admin) -> None:
    for body in ({"nobody": "x"}, {"openai": 3}, {"openai": "a\nb"}, {"openai": "x" * 2000}):
        status, answer = await admin.send("PUT", "/api/admin/providers", body)
        assert (status, answer["error"]["param"]) == (400, next(iter(body))), body
    status, answer = await admin.send(
        "PUT", "/api/admin/providers", {"claude_subscription_enabled": True}
    )
    assert status == 400
    assert "SHOAL_GATEWAY_CLAUDE_SUBSCRIPTION_ENABLED" in answer["error"]["message"]
    assert (await admin.get("/api/admin/claude-subscription/status"))["cli_installed"] is False


async def test_everything_is_behind_the_key(admin: Admin) -> None:
    for path in ("providers", "provider-models", "provider-health"):
        async with admin.http.get(f"/api/admin/{path}", headers={"Authorization": ""}) as response:
            assert response.status == 401, path
    async with admin.http.get("/v1/providers", headers={"Authorization": ""}) as response:
        assert response.status == 401


async def test_models_are_listed_by_the_names_that_lead_to_them(admin: Admin) -> None:
    admin.provider.models = [
        {"id": "gpt-4o", "object": "model"},
        {"id": "llama-3.3-70b-versatile", "context_window": 131072},
        {"id": "qwen/qwen3-32b"},
        {"id": ""},
        "nonsense",  # type: ignore[list-item]
    ]
    await admin.send("PUT", "/api/admin/providers", {"openai": "a", "groq": "b"})
    answer = await admin.get("/api/admin/provider-models")
    assert answer["models"] == [
        {"id": "groq-gpt-4o", "name": "gpt-4o", "provider": "groq"},
        {
            "id": "llama-3.3-70b-versatile",
            "name": "llama-3.3-70b-versatile",
            "provider": "groq",
        },
        {"id": "groq-qwen/qwen3-32b", "name": "qwen/qwen3-32b", "provider": "groq"},
        {"id": "gpt-4o", "name": "gpt-4o", "provider": "openai"},
    ]
    assert await admin.get("/v1/providers") == [
        {"name": "openai", "models": ["gpt-4o"]},
        {
            "name": "groq",
            "models": ["groq-gpt-4o", "llama-3.3-70b-versatile", "groq-qwen/qwen3-32b"],
        },
    ]
    async with AsyncOpenAI(base_url=f"{admin.fleet.url}/v1", api_key=KEY) as client:
        names = [model.id async for model in client.models.list()]
        assert names[0] == "heavyweight"
        assert set(names[1:]) == {model["id"] for model in answer["models"]}
        shown = await client.models.retrieve("llama-3.3-70b-versatile")
        assert shown.owned_by == "groq"
    # Whoever answers for a model, the same is said of it, if only that it is not known.
    rows = (await admin.get("/v1/models"))["data"]
    assert len({tuple(row) for row in rows}) == 1
    # All answers came from one question to each.
    assert admin.provider.list_count == 2


async def test_health_of_providers_and_models(admin: Admin) -> None:
    await admin.send("PUT", "/api/admin/providers", {"openai": "a"})
    cases = [
        (openai_stream("x"), "up", "up"),
        (whole({}, 429), "rate_limited", "rate_limited"),
        (whole({}, 503), "overloaded", "unavailable"),
        (whole({}, 500), "error_500", "error"),
        (whole({}, 401), "error_401", "error"),
        (whole({}, 404), "error_404", "not_found"),
    ]
    for reply, provider_status, model_status in cases:
        admin.provider.says(reply)
        (probe,) = (await admin.get("/api/admin/provider-health"))["providers"]
        assert (probe["provider"], probe["status"]) == ("openai", provider_status)
        names = ["gpt-4o", "claude-haiku-4-5", "gpt-4o"]
        status, answer = await admin.send(
            "POST", "/api/admin/provider-model-status", {"models": names}
        )
        assert status == 200
        assert [entry["status"] for entry in answer["models"] if entry["model"] == "gpt-4o"] == [
            model_status
        ]
    assert admin.provider.seen[0].body["max_completion_tokens"] == 1
    too_many = {"models": ["gpt-4o"] * 21}
    status, _ = await admin.send("POST", "/api/admin/provider-model-status", too_many)
    assert status == 400


async def test_embeddings_are_the_providers_own(admin: Admin) -> None:
    client = AsyncOpenAI(base_url=f"{admin.fleet.url}/v1", api_key=KEY, max_retries=0)
    async with client:
        with pytest.raises(openai.InternalServerError, match="nobody makes embeddings") as caught:
            await client.embeddings.create(model="text-embedding-3-small", input="hi")
        assert caught.value.status_code == 503
        await admin.send("PUT", "/api/admin/providers", {"openai": "a"})
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        admin.provider.says(whole({"object": "list", "data": data, "model": "m", "usage": usage}))
        answer = await client.embeddings.create(
            model="text-embedding-3-small", input="hi", encoding_format="float", dimensions=2
        )
    assert answer.data[0].embedding == [0.25, -1.0]
    assert admin.provider.seen[0].path == "/v1/embeddings"
    assert admin.provider.seen[0].body["dimensions"] == 2


async def test_anthropic_counts_tokens_itself(admin: Admin) -> None:
    await admin.send("PUT", "/api/admin/providers", {"anthropic": "a"})
    admin.provider.says(whole({"input_tokens": 77}))
    body = {"model": "claude-haiku-4-5", "messages": HELLO}
    status, answer = await admin.send("POST", "/v1/messages/count_tokens", body)
    assert (status, answer["input_tokens"]) == (200, 77)
    assert admin.provider.seen[0].path == "/v1/messages/count_tokens"


def is_running(pid: str) -> bool:
    """A process that was killed and waits to be collected does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def login_program(folder: Path, script: str) -> str:
    """A `claude` of our own."""
    path = folder / "claude"
    path.write_text(f"#!/usr/bin/env python3\n{script}")
    path.chmod(0o755)
    return str(path)


CLAUDE = """
import json, os, signal, sys
if sys.argv[1:] == ["--version"]:
    print("2.1.92 (Claude Code)")
    raise SystemExit
prompt = sys.stdin.read()
facts = {"prompt": prompt, "home": os.environ["HOME"], "cwd": os.getcwd(),
         "names": sorted(os.environ), "arguments": sys.argv[1:]}
say = lambda value: print(json.dumps(value), flush=True)
say({"type": "system", "subtype": "init"})
if "limit" in prompt:
    say({"type": "result", "is_error": True, "result": "You've hit your limit"})
elif "hang" in prompt:
    block = {"type": "text", "text": "."}
    event = {"type": "content_block_start", "index": 0, "content_block": block}
    reader, writer = os.pipe()
    child = os.fork()
    with open(os.path.join(os.environ["HOME"], "pids"), "a") as file:
        file.write(f"{os.getpid()}\\n")
    if child:
        os.read(reader, 1)
        say({"type": "stream_event", "event": event})
    else:
        os.write(writer, b"x")
    signal.pause()
else:
    content = [{"type": "text", "text": json.dumps(facts)}]
    usage = {"input_tokens": 3, "output_tokens": 2}
    say({"type": "assistant", "message": {"content": content, "usage": usage}})
    say({"type": "result", "is_error": False, "result": "x", "usage": usage})
"""


async def test_the_claude_program_is_kept_apart(start_admin: Any, tmp_path: Path) -> None:
    binary = login_program(tmp_path, CLAUDE)
    async with start_admin(claude_subscription_enabled=True, claude_binary=binary) as admin:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "reply"},
            {"role": "user", "content": "second"},
        ]
        body = {"model": "claude-sonnet-4-6", "messages": messages}
        status, answer = await admin.send("POST", "/v1/chat/completions", body)
        assert status == 200
        facts = json.loads(answer["choices"][0]["message"]["content"])
        assert answer["usage"]["prompt_tokens"] == 3
        assert facts["prompt"] == (
            "<system>\nBe brief.\n</system>\n\nfirst\n\n"
            "<previous_response>\nreply\n</previous_response>\n\nsecond"
        )
        assert facts["home"] == str(tmp_path / "claude_home")
        assert "shoal-claude-" in facts["cwd"]
        assert not Path(facts["cwd"]).exists()
        assert "second" not in str(facts["arguments"])
        assert not [name for name in facts["names"] if "SHOAL" in name or "API_KEY" in name]
        known = await admin.get("/api/admin/claude-subscription/status")
        assert known["cli_version"] == "2.1.92 (Claude Code)"
        body["messages"] = [{"role": "user", "content": "limit"}]
        assert (await admin.send("POST", "/v1/chat/completions", body))[0] == 429
        # Switched off, the key is next in line.
        status, shown = await admin.send(
            "PUT",
            "/api/admin/providers",
            {"claude_subscription_enabled": False, "anthropic": "a"},
        )
        assert shown["claude_subscription_enabled"] is False
        admin.provider.says(anthropic_stream(anthropic_text("by key")))
        status, answer = await admin.send("POST", "/v1/chat/completions", body)
        assert answer["choices"][0]["message"]["content"] == "by key"


async def test_leaving_kills_the_claude_program_and_its_children(
    start_admin: Any, tmp_path: Path
) -> None:
    binary = login_program(tmp_path, CLAUDE)
    body = {"model": "claude-x", "messages": [{"role": "user", "content": "hang"}]}
    async with (
        start_admin(claude_subscription_enabled=True, claude_binary=binary) as admin,
        admin.http.post("/v1/chat/completions", json=body | {"stream": True}) as response,
    ):
        assert response.status == 200
        await response.content.readline()
        response.close()
    pids = (tmp_path / "claude_home" / "pids").read_text().split()
    assert len(pids) == 2
    assert not [pid for pid in pids if is_running(pid)]


async def test_a_hung_claude_program_is_given_up(start_admin: Any, tmp_path: Path) -> None:
    binary = login_program(tmp_path, CLAUDE)
    settings: Any = {"claude_subscription_enabled": True, "claude_binary": binary}
    async with start_admin(claude_timeout_s=0.05, **settings) as admin:
        assert await admin.chat("claude-x") == 504
