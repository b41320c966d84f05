"""Logs: one handler, JSON lines in containers and text on a terminal, secrets taken out.

Owns the shape of a line, the context fields that follow a request, and redaction. Does not know
where the lines go after standard error.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import TextIO

import orjson
from opentelemetry import trace

REDACTED = "[redacted]"

_LEVELS = {
    "silent": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN_ONLY = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_context: ContextVar[Mapping[str, object]] = ContextVar("shoal_log_context", default={})  # noqa: B039 (never mutated)

# Fields whose value is a secret, or somebody's text, whatever it looks like.
_SECRET_FIELD = re.compile(
    r"(?i)^(.*[_-])?(api[_-]?key|token|secret|password|passwd|authorization|cookie|credentials?)$"
)
_TEXT_FIELD = frozenset(
    {"prompt", "messages", "content", "text", "body", "completion", "token_ids", "input_ids"}
)
# Every pattern takes time linear in the text: nothing unbounded stands before its fixed word.
_SECRET_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    # The whole value of a header, whatever its scheme: Authorization: Token x, ("cookie", "a=b").
    (
        re.compile(
            r"(?i)((?:authorization|cookie)[\"']?\s*[=:,]\s*+(?:b(?=[\"']))?+[\"']?+)"
            r"(?!\[redacted\])[^\"'\n,)}\]]+"
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?i)\b(bearer)\s+(?!\[redacted\])[^\s\"',;]+"), rf"\1 {REDACTED}"),
    (
        re.compile(r"\b(?:sk[-_]|nvapi-|hf_|gh[opsu]_|xox[abp]-|gsk_)[A-Za-z0-9][\w.\-]{7,}"),
        REDACTED,
    ),
    # key=value, key: value, "key": "value", ("key", "value")
    (
        re.compile(
            r"(?i)((?:api[_-]?key|(?<![a-z])token|secret|password|passwd)[\"']?\s*[=:,]\s*+"
            r"(?:b(?=[\"']))?)"
            r"(?!\[redacted\])(?:\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|[^\s\"'&,;)}\]]+)"
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?i)([?&](?:key|token|auth)=)(?!\[redacted\])[^\s\"'&]+"), rf"\1{REDACTED}"),
    (re.compile(r"([a-z][a-z0-9+.-]{1,15}://)[^\s/\"']{1,512}@"), rf"\1{REDACTED}@"),
)

# Every match of a pattern above holds one of these, in some case.
_SECRET_MARK = re.compile(
    r"authorization|cookie|bearer|sk[-_]|nvapi-|hf_|gh[opsu]_|xox[abp]-|api[-_]?key|token|secret"
    r"|passw|key=|auth=|://"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without credentials: the known `secrets`, and everything shaped like one."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if not may_hold_secret(text):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def may_hold_secret(text: str) -> bool:
    """False only where no pattern matches: nearly all fields of nearly all lines, and a tenth of
    the patterns' time."""
    if not text.isascii():
        # Beyond ASCII a letter may equal another one, as the long s does.
        return True
    lower = text.lower()
    return _SECRET_MARK.search(lower) is not None


class bind:
    """Give every line logged inside these fields; tasks started inside inherit them.

    A field of None takes an outer one away.
    """

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, object]] = _context.set({**_context.get(), **self._fields})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _context.reset(self._token)


def bound() -> dict[str, object]:
    """The fields bound here and now."""
    return {name: value for name, value in _context.get().items() if value is not None}


def setup(
    service: str,
    level: str = "info",
    fmt: str = "auto",
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Install the one handler of this process on the root logger, replacing any other.

    secrets: values never to be written, for example the fleet token. stream: default stderr.
    """
    stream = sys.stderr if stream is None else stream
    is_text = fmt in ("text", "pretty") or (fmt == "auto" and stream.isatty())
    hidden = tuple(secret for secret in secrets if secret)
    handler = logging.StreamHandler(stream)
    handler.setFormatter((TextFormatter if is_text else JsonFormatter)(service, hidden))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    # Lines name neither source line, thread nor process: finding those takes longer than writing.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, service, event, context, the record's own fields."""

    def __init__(self, service: str, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._service = service
        self._secrets = secrets
        self._escaped_secrets = tuple(json.dumps(s, ensure_ascii=False)[1:-1] for s in secrets)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = _fields(record)
        line.update({n: v for n, v in fields.items() if n not in line})
        line.update({f"field_{n}": v for n, v in fields.items() if n in line and line[n] is not v})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = _dumped(line)
        # One look at the line instead of one at each field; no mark changes when JSON escapes it.
        if may_hold_secret(text) or any(secret in text for secret in self._escaped_secrets):
            hidden = _clean(line, partial(redact, secrets=self._secrets))
            return json.dumps(hidden, ensure_ascii=False)
        return text


class TextFormatter(logging.Formatter):
    """One line for people: time, level, service, event, then fields as name=value."""

    def __init__(self, service: str, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._service = service
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        hide = partial(redact, secrets=self._secrets)
        time = _time(record).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(
            f" {name}={_one_line(_clean(value, hide))}" for name, value in _fields(record).items()
        )
        event = redact(record.getMessage(), self._secrets).replace("\n", "\\n")
        text = f"{time} {record.levelname.lower():<8} {self._service} {event}{fields}"
        if record.exc_info:
            text += "\n" + redact(self.formatException(record.exc_info), self._secrets)
        return text


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Bound context, trace id, then what the caller gave as `extra`; secrets by name hidden."""
    fields = bound()
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        fields.setdefault("trace_id", trace.format_trace_id(span.trace_id))
        fields.setdefault("span_id", trace.format_span_id(span.span_id))
    fields.update({n: v for n, v in vars(record).items() if n not in _STANDARD})
    return {name: _hidden_by_name(name, value) for name, value in fields.items()}


def _hidden_by_name(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {str(n): _hidden_by_name(str(n), v) for n, v in value.items()}
    return REDACTED if _is_secret_name(name) and value not in (None, "") else value


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return bool(_SECRET_FIELD.match(name)) or name.lower() in _TEXT_FIELD


def _clean(value: object, hide: Callable[[str], str]) -> object:
    """`value` as JSON can hold it, with `hide` applied to every string but names."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _clean(item, hide) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, hide) for item in value]
    return hide(str(value))


def _dumped(line: dict[str, object]) -> str:
    try:
        return orjson.dumps(line, default=_plain, option=_PLAIN_ONLY).decode()
    except TypeError:
        # Halves of surrogate pairs, integers beyond 64 bits, names that are no text.
        return json.dumps(_clean(line, str), ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    return list(value) if isinstance(value, tuple | set | frozenset) else str(value)


def _one_line(value: object) -> str:
    """A field's value without spaces or line breaks that would blur where it ends."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_plain = text and not re.search(r"[\s\"=]", text)
    return text if is_plain else json.dumps(text, ensure_ascii=False)
