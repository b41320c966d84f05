"""Claude's models through the `claude` program of whoever pays a subscription. Off by default.

One process for each answer, in a folder of its own that is gone afterwards, with none of our
environment, no tools and the prompt on stdin. Its HOME is ours as well: log in there once with
`HOME=<data_dir>/claude_home claude login`, or hand over a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway.privacy import require_open
from shoal_gateway.providers.errors import (
    ProviderAnswerBroken,
    ProviderCrowded,
    ProviderFault,
    ProviderRateLimited,
    ProviderSilent,
    ProviderUnreachable,
)
from shoal_gateway.providers.estimate import prompt_tokens
from shoal_gateway.providers.event_lines import ServerEvent
from shoal_gateway.providers.keys import ProviderKeys
from shoal_gateway.providers.read_anthropic import AnthropicAnswer
from shoal_gateway.providers.read_openai import parsed
from shoal_gateway.providers.values import obj, text
from shoal_gateway.task import ChatTask, Event, Message

log = logging.getLogger(__name__)

NAME = "claude_subscription"
SWITCH = "claude_subscription"
STATUS_TIMEOUT_S = 5.0
PIPE_TIMEOUT_S = 1.0
LINE_BYTES_MAX = 16 * 1024 * 1024
_PATHS = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class ClaudeConfig:
    """`model` replaces what requests ask for, unless it is "". `home` is made with mode 0700."""

    is_allowed: bool
    binary: str
    home: Path
    search_path: str = _PATHS
    token: str = field(default="", repr=False)
    model: str = ""
    concurrency: int = 3
    timeout_s: float = 300.0


class ClaudeCli:
    """Whether the program may be used, and what is known of it."""

    def __init__(self, config: ClaudeConfig, keys: ProviderKeys) -> None:
        self.config = config
        self._keys = keys
        self.running_count = 0

    @property
    def is_allowed(self) -> bool:
        """The operator of this machine said so; admins may only switch it off and on again."""
        return self.config.is_allowed

    async def is_on(self) -> bool:
        if not self.config.is_allowed:
            return False
        await self._keys.refresh()
        return self._keys.switch(SWITCH) is not False

    def path(self) -> str | None:
        """Where the program is; None if it is not installed."""
        return shutil.which(self.config.binary, path=self.config.search_path)

    async def status(self) -> dict[str, Any]:
        """What the dashboard shows. Starts `claude --version` only where it is allowed."""
        path = self.path() if self.config.is_allowed else None
        login = await asyncio.to_thread(_login, self.config.home)
        return {
            "enabled": await self.is_on(),
            "cli_installed": path is not None,
            "cli_version": await self._version(path) if path is not None else None,
            "authenticated": bool(login) or bool(self.config.token),
            "subscription_type": text(login.get("subscriptionType")) or None,
            "rate_limit_tier": text(login.get("rateLimitTier")) or None,
        }

    async def _version(self, path: str) -> str | None:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                async with self.process(path, ["--version"]) as process:
                    out, _ = await process.communicate()
        except (TimeoutError, OSError):
            return None
        return out[:200].decode(errors="replace").strip() or None

    @asynccontextmanager
    async def process(
        self, path: str, arguments: list[str]
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process in a folder of its own; leaving kills whatever is left of its group."""
        self.config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="shoal-claude-") as folder:
            process = await asyncio.create_subprocess_exec(
                path,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=folder,
                env=self._environment(folder),
                start_new_session=True,
                limit=LINE_BYTES_MAX,
            )
            try:
                yield process
            finally:
                await _end(process)

    def _environment(self, folder: str) -> dict[str, str]:
        environment = {
            "HOME": str(self.config.home),
            "PATH": self.config.search_path,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        if self.config.token:
            environment["CLAUDE_CODE_OAUTH_TOKEN"] = self.config.token
        return environment


@dataclass(frozen=True)
class ClaudeAnswer:
    """One process, started when its events are asked for."""

    task: ChatTask
    cli: ClaudeCli
    fingerprint: str = ""

    @property
    def model(self) -> str:
        return self.task.model

    def again(self, request_id: str, seed: int | None) -> ClaudeAnswer:
        return self

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises ProviderFailed. Closing it kills the process and its children."""
        config = self.cli.config
        path = self.cli.path()
        if path is None:
            raise ProviderUnreachable(NAME, f"there is no program '{config.binary}'")
        if self.cli.running_count >= config.concurrency:
            raise ProviderCrowded(NAME, None)
        self.cli.running_count += 1
        try:
            give_up_at = asyncio.get_running_loop().time() + config.timeout_s
            async with (
                self.cli.process(path, _arguments(config.model or self.task.model)) as process,
                aclosing(_events(process, prompt_of(self.task), give_up_at)) as events,
            ):
                async for event in events:
                    yield event
        except TimeoutError as err:
            raise ProviderSilent(NAME, config.timeout_s) from err
        except OSError as err:
            raise ProviderUnreachable(NAME, "the program cannot be started") from err
        finally:
            self.cli.running_count -= 1


class ClaudeBackend:
    """Answers for `claude-*` while it is on; comes before the provider with a key."""

    def __init__(self, cli: ClaudeCli) -> None:
        self._cli = cli

    async def serves(self, model: str) -> bool:
        return model.startswith("claude-") and await self._cli.is_on()

    async def open(self, request_id: str, task: ChatTask) -> ClaudeAnswer:
        require_open(task.privacy, task.model)
        if task.tools:
            raise InvalidRequest("the Claude subscription cannot call your tools", param="tools")
        await self.require_images(task)
        return ClaudeAnswer(task, self._cli)

    async def require_images(self, task: ChatTask) -> None:
        """Refuses those that are there."""
        if any(message.images for message in task.messages):
            raise InvalidRequest("the Claude subscription reads text only", param="messages")

    async def count_tokens(self, task: ChatTask) -> int:
        """Four characters are a token, rounded up."""
        return prompt_tokens(task)


def prompt_of(task: ChatTask) -> str:
    """The whole conversation as one text, in tags that Claude knows how to read."""
    return "\n\n".join(_tagged(message) for message in task.messages)


def _tagged(message: Message) -> str:
    match message.role:
        case "system":
            return f"<system>\n{message.text}\n</system>"
        case "assistant":
            return f"<previous_response>\n{message.text}\n</previous_response>"
    return message.told


def _arguments(model: str) -> list[str]:
    return [
        *("-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
        *("--model", model),
        # None of its own tools, servers or settings: the prompt comes from strangers.
        *("--tools", "", "--strict-mcp-config", "--setting-sources", ""),
        *("--max-turns", "1", "--no-session-persistence"),
    ]


async def _events(
    process: asyncio.subprocess.Process, prompt: str, give_up_at: float
) -> AsyncGenerator[Event, None]:
    assert process.stdin is not None
    assert process.stdout is not None
    # Beside the reading: a long prompt fills the pipe before the first line comes back.
    writing = asyncio.create_task(_write(process.stdin, prompt.encode()))
    reader = _CliAnswer()
    try:
        while not reader.is_done:
            # Around each line alone: whoever asks for the next event may be another task.
            async with asyncio.timeout_at(give_up_at):
                line = await process.stdout.readline()
            if not line:
                raise ProviderAnswerBroken(NAME, "ended before it was finished")
            if line.strip():
                for event in reader.feed(line):
                    yield event
    except ValueError as err:
        raise ProviderAnswerBroken(NAME, f"has a line above {LINE_BYTES_MAX} bytes") from err
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(stdin: asyncio.StreamWriter, data: bytes) -> None:
    stdin.write(data)
    await stdin.drain()
    stdin.close()


class _CliAnswer:
    """Lines of the program's JSON: Anthropic's events in envelopes, and a result at the end."""

    def __init__(self) -> None:
        self._answer = AnthropicAnswer(NAME)
        self._has_streamed = False
        self.is_done = False

    def feed(self, line: bytes) -> list[Event]:
        value = parsed(NAME, line)
        match value.get("type"):
            case "stream_event":
                self._has_streamed = True
                return self._answer.feed(ServerEvent("", json.dumps(value.get("event")).encode()))
            case "assistant" if not self._has_streamed:
                # Programs before partial messages send the message in whole.
                return self._answer.object(obj(value.get("message")))
            case "result":
                return self._result(value)
        return []

    def _result(self, value: dict[str, Any]) -> list[Event]:
        self.is_done = True
        if value.get("is_error"):
            message = text(value.get("result"))
            if "limit" in message.lower():
                raise ProviderRateLimited(NAME, None, message)
            raise ProviderFault(NAME, 0, message)
        self._answer.conclude(obj(value.get("usage")))
        return self._answer.finish()


def _login(home: Path) -> dict[str, Any]:
    """What the program itself keeps of its login, without the tokens."""
    try:
        kept = json.loads((home / ".claude" / ".credentials.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    login = obj(obj(kept).get("claudeAiOauth"))
    return (
        {name: login.get(name) for name in ("subscriptionType", "rateLimitTier")} if login else {}
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the group, even where the program itself has ended and left others behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("claude ended by itself")
    await process.wait()
    if process.stdout is not None:
        # Pipes are closed once they are read to their end.
        with suppress(TimeoutError):
            async with asyncio.timeout(PIPE_TIMEOUT_S):
                await process.stdout.read()
