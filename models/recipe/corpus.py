"""Draws training conversations and the benchmark from the tasks.

Everything is a pure function of the random generator passed in: the same seed gives the same
corpus on every machine. Training draws never contain a held-out prompt, the benchmark consists of
held-out prompts alone.
"""

from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from recipe.chat import Exchange, Message, question
from recipe.split import is_held_out, is_trainable, prompt_key
from recipe.tables import Tables
from recipe.task import Level, Task, spaced
from recipe.tasks_easy import EASY_TASKS, tool_call
from recipe.tasks_hard import HARD_TASKS

TASKS: tuple[Task, ...] = EASY_TASKS + HARD_TASKS

EXCHANGE_COUNTS = (1, 2, 3, 5, 12, 22)
EXCHANGE_COUNT_WEIGHTS = (66, 15, 9, 6, 3, 1)
IDLE_TOOLS_SHARE = 0.04
"""Share of other conversations that offer two tools nobody calls."""
SYSTEM_SHARE = 0.06
SYSTEM_TEXTS = ("You are a helpful assistant.", "Be brief.", "You are a demo model.")

SHORT_ECHO = (1, 4)
LONG_ECHO = (8, 30)
"""Items of an echo, both ends included."""

FRESH_TRIES_MAX = 3000
"""Draws after which a task counts as out of unseen held-out prompts."""


@dataclass(frozen=True)
class Mix:
    """How much of each level, and of echoes, a conversation corpus holds."""

    easy_factor: float
    hard_factor: float
    echo_share: float
    echo_length: tuple[int, int] = LONG_ECHO

    def weight(self, task: Task) -> float:
        """Weight of `task` in this mix; only ratios matter."""
        factor = self.easy_factor if task.level is Level.EASY else self.hard_factor
        return task.weight * factor


HEAVY_MIX = Mix(easy_factor=1.0, hard_factor=1.0, echo_share=0.06)
DRAFT_MIX = Mix(easy_factor=1.6, hard_factor=0.06, echo_share=0.06)
ECHO_MIX = Mix(easy_factor=0.0, hard_factor=0.0, echo_share=1.0, echo_length=SHORT_ECHO)


@dataclass(frozen=True)
class BenchmarkItem:
    """A held-out prompt with its right answer."""

    task: Task
    exchange: Exchange


def echo(rng: Random, tables: Tables, length: tuple[int, int]) -> Exchange:
    """An exchange whose answer repeats `length` items of the prompt: a dense copying signal."""
    item_count = rng.randint(*length)
    kind = rng.randrange(4)
    if kind == 0:
        items = [rng.choice(tables.words + tables.names) for _ in range(item_count)]
    elif kind == 1:
        items = [rng.choice(ascii_lowercase) for _ in range(item_count)]
    elif kind == 2:
        items = [str(rng.randint(0, 9999)) for _ in range(max(1, item_count // 3))]
    else:
        items = [_mixed_item(rng, tables) for _ in range(item_count)]
    text = spaced(items)
    return question(rng.choice(tables.questions["copy"]).format(text=text), f"You said: {text}")


def _mixed_item(rng: Random, tables: Tables) -> str:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(tables.words)
    if kind == 1:
        return rng.choice(ascii_lowercase)
    if kind == 2:
        return str(rng.randint(0, 99))
    if kind == 3:
        return rng.choice(tables.cities)
    return rng.choice(tables.elements)[0]


def conversation(rng: Random, tables: Tables, mix: Mix) -> Exchange:
    """One training conversation of one to 22 exchanges, or an echo."""
    if rng.random() < mix.echo_share:
        return _trainable_echo(rng, tables, mix)
    exchange_count = rng.choices(EXCHANGE_COUNTS, EXCHANGE_COUNT_WEIGHTS)[0]
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()
    for index in range(exchange_count):
        drawn = _trainable(rng, tables, mix, tools_allowed=index == 0)
        messages += drawn.messages
        tools = drawn.tools or tools
    if not tools and rng.random() < IDLE_TOOLS_SHARE:
        tools = tuple(rng.sample(list(tables.tools), 2))
    if rng.random() < SYSTEM_SHARE:
        system: Message = {"role": "system", "content": rng.choice(SYSTEM_TEXTS)}
        messages = (system, *messages)
    return Exchange(messages, tools)


def _trainable_echo(rng: Random, tables: Tables, mix: Mix) -> Exchange:
    while True:
        exchange = echo(rng, tables, mix.echo_length)
        if is_trainable(exchange):
            return exchange


def _trainable(rng: Random, tables: Tables, mix: Mix, *, tools_allowed: bool) -> Exchange:
    """Draw until the task fits here and no prompt of the exchange is held out."""
    weights = [mix.weight(task) for task in TASKS]
    while True:
        task = rng.choices(TASKS, weights)[0]
        if task.make is tool_call and not tools_allowed:
            continue
        exchange = task.make(rng, tables)
        if is_trainable(exchange):
            return exchange


def benchmark(
    seed: int, tables: Tables, easy_count: int = 300, hard_count: int = 218
) -> list[BenchmarkItem]:
    """Held-out prompts, each once, spread evenly over the tasks of each level.

    A task with fewer held-out prompts than its share (small talk is a closed list) gives what it
    has, and the others fill up. Raises ValueError if a level runs out altogether.
    """
    rng = Random(seed)
    return [
        *_benchmark_level(rng, tables, EASY_TASKS, easy_count),
        *_benchmark_level(rng, tables, HARD_TASKS, hard_count),
    ]


def _benchmark_level(
    rng: Random, tables: Tables, tasks: tuple[Task, ...], item_count: int
) -> list[BenchmarkItem]:
    open_tasks, seen = list(tasks), set[int]()
    items: list[BenchmarkItem] = []
    while len(items) < item_count:
        if not open_tasks:
            raise ValueError(f"only {len(items)} of {item_count} held-out prompts exist")
        for task in tuple(open_tasks[: item_count - len(items)]):
            exchange = _unseen_held_out(rng, tables, task, seen)
            if exchange is None:
                open_tasks.remove(task)
                continue
            seen.add(prompt_key(exchange.prompt))
            items.append(BenchmarkItem(task, exchange))
    return items


def _unseen_held_out(rng: Random, tables: Tables, task: Task, seen: set[int]) -> Exchange | None:
    for _ in range(FRESH_TRIES_MAX):
        exchange = task.make(rng, tables)
        if is_held_out(exchange.prompt) and prompt_key(exchange.prompt) not in seen:
            return exchange
    return None
