"""Judges grammars without a vocabulary: `python -m shoal_engine.grammar_check LIMIT_S`.

Schemas and expressions come from strangers, and some need exponential time to judge (a dozen
patterns that must all hold), which no library call can be stopped in. So they are judged in a
process of their own, which its parent kills when it is late. One JSON string a line in, one a line
out: the grammar, then its problem, empty when there is none.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import BinaryIO

from llguidance import LLMatcher, LLParserLimits

MEMORY_LIMIT_BYTES = 1 << 30
PROBLEM_CHARS_MAX = 300
# The parent ends a late process itself; the timer is for the case that the parent is gone.
_TIMER_MARGIN_S = 1.0


def parser_limits() -> LLParserLimits:
    """Bounds on one reply's grammar.

    Ordinary masks take a few thousand units of fuel; one of 50,000 delays its neighbours by 4 to 25
    ms. What a grammar remembers of the vocabulary stays near 40 MB (2 kB a state).
    """
    return LLParserLimits(
        step_lexer_fuel=50_000,
        step_max_items=50_000,
        max_lexer_states=20_000,
        verbose_errors=False,
    )


def problem_of(grammar: str) -> str:
    """Why a grammar in llguidance's own form cannot be used; empty when it can."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=parser_limits())
    return shortened(messages[0]) if is_error else ""


def shortened(message: str) -> str:
    """A library's message as one line."""
    return " ".join(message.replace("<non-verbose/>", "").split())[:PROBLEM_CHARS_MAX]


def serve(source: BinaryIO, target: BinaryIO, limit_s: float) -> None:
    """Answer lines until `source` ends. The first line out says that the process is ready."""
    target.write(b'""\n')
    target.flush()
    while line := source.readline():
        signal.setitimer(signal.ITIMER_REAL, limit_s + _TIMER_MARGIN_S)
        problem = problem_of(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        target.write(json.dumps(problem).encode() + b"\n")
        target.flush()


def main() -> None:
    """Serve stdin. Ctrl-C reaches the whole group of a terminal; the parent decides the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    serve(sys.stdin.buffer, answers, float(sys.argv[1]))


if __name__ == "__main__":
    main()
