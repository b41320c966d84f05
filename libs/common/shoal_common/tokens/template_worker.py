"""The process that runs chat templates: `python -m shoal_common.tokens.template_worker`.

Templates come with checkpoints and are not trusted. They run in jinja2's immutable sandbox, in a
process of their own that has little memory and that a timer of the kernel ends, so that neither a
loop nor a swollen string harms the service. Speaks length-prefixed JSON on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LENGTH = struct.Struct("<I")
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
# The parent ends a late worker itself; the timer is for the case that the parent is gone.
TIMER_MARGIN_S = 1.0


class GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 (the name and type are jinja2's)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Plain JSON: jinja2's own filter would escape `<` and `&` for HTML."""
    options = {key: more[key] for key in ("separators", "sort_keys") if key in more}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def make_environment() -> ImmutableSandboxedEnvironment:
    """An environment with the filters and globals that published templates rely on."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def render(request: dict[str, Any], compile_source: Callable[[str], Any]) -> dict[str, str]:
    """Returns {"text"} or {"error"}; any fault of the template is the template's."""
    size_max = int(request["output_size_max"])
    pieces: list[str] = []
    size = 0
    try:
        for piece in compile_source(request["source"]).generate(**request["variables"]):
            size += len(piece)
            if size > size_max:
                return {"error": f"its output is longer than {size_max} characters"}
            pieces.append(piece)
    except MemoryError:
        return {"error": "it needs more memory than it may have"}
    # The outermost loop of this process's only task: a template can raise anything.
    except Exception as err:
        return {"error": f"{type(err).__name__}: {str(err)[:500]}"}
    return {"text": "".join(pieces)}


def limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(source: BinaryIO, target: BinaryIO, time_limit_s: float) -> None:
    """Answers requests until stdin ends. The first message out says that the worker is ready."""
    compile_source = lru_cache(maxsize=16)(make_environment().from_string)
    limit_memory()
    write_message(target, {})
    while header := source.read(LENGTH.size):
        request = json.loads(source.read(LENGTH.unpack(header)[0]))
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + TIMER_MARGIN_S)
        answer = render(request, compile_source)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_message(target, answer)


def write_message(target: BinaryIO, message: dict[str, str]) -> None:
    data = json.dumps(message).encode()
    target.write(LENGTH.pack(len(data)) + data)
    target.flush()


def main() -> None:
    # Ctrl-C in a terminal reaches the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, answers, float(sys.argv[1]))


if __name__ == "__main__":
    main()
