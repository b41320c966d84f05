"""The fourteen easy tasks: small talk, facts, copying, recall within a chat, tool calls."""

import json
from random import Random

from recipe.chat import Exchange, Message, assistant, question, user
from recipe.split import is_held_out
from recipe.tables import Tables
from recipe.task import Level, Task, ask, spaced

SYMBOL_COUNT = 20
"""Only the symbols of the lightest elements are easy."""
UNITS = (("km", "m"), ("kg", "g"), ("l", "ml"))
FAVORITE_KINDS = ("word", "thing", "code word")
TOOL_RESULT_SHARE = 0.5
"""Share of tool exchanges that go on to the tool's result and a spoken answer."""


def small_talk(rng: Random, tables: Tables) -> Exchange:
    """Greetings, thanks and questions about the model itself."""
    group = rng.choice(tables.small_talk)
    return question(rng.choice(group.prompts), group.answer)


def capital(rng: Random, tables: Tables) -> Exchange:
    """Capital of a well-known country."""
    country, city = rng.choice(tables.capitals_common)
    return question(
        ask(rng, tables, "capital", key=country), f"The capital of {country} is {city}."
    )


def symbol(rng: Random, tables: Tables) -> Exchange:
    """Chemical symbol of a light element."""
    element, sign = rng.choice(tables.elements[:SYMBOL_COUNT])
    return question(ask(rng, tables, "symbol", key=element), f"The symbol of {element} is {sign}.")


def opposite(rng: Random, tables: Tables) -> Exchange:
    """Opposite of an adjective or verb."""
    word, other = rng.choice(tables.opposites)
    return question(ask(rng, tables, "opposite", key=word), f"The opposite of {word} is {other}.")


def color(rng: Random, tables: Tables) -> Exchange:
    """Colour of a familiar thing."""
    thing, shade = rng.choice(tables.colors)
    return question(ask(rng, tables, "color", key=thing), f"The color of {thing} is {shade}.")


def young(rng: Random, tables: Tables) -> Exchange:
    """Name of an animal's young."""
    animal, child = rng.choice(tables.young)
    return question(ask(rng, tables, "young", key=animal), f"A young {animal} is called a {child}.")


def neighbour(rng: Random, tables: Tables) -> Exchange:
    """Day or month right before or after another."""
    unit, ring = rng.choice((("day", tables.days), ("month", tables.months)))
    index = rng.randrange(len(ring))
    side, offset = rng.choice((("after", 1), ("before", -1)))
    text = ask(rng, tables, "neighbour", unit=unit, side=side, key=ring[index])
    found = ring[(index + offset) % len(ring)]
    return question(text, f"The {unit} {side} {ring[index]} is {found}.")


def add_digits(rng: Random, tables: Tables) -> Exchange:
    """Sum of two digits."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return question(ask(rng, tables, "add_digits", a=a, b=b), f"{a} + {b} = {a + b}.")


def convert(rng: Random, tables: Tables) -> Exchange:
    """Metric unit to its thousandth."""
    n = rng.randint(1, 99)
    big, small = rng.choice(UNITS)
    text = ask(rng, tables, "convert", n=n, big=big, small=small)
    return question(text, f"{n} {big} = {n}000 {small}.")


def copy(rng: Random, tables: Tables) -> Exchange:
    """Say two to five words back."""
    pool = tables.words + tables.names
    text = spaced([rng.choice(pool) for _ in range(rng.randint(2, 5))])
    return question(ask(rng, tables, "copy", text=text), f"You said: {text}")


def spell(rng: Random, tables: Tables) -> Exchange:
    """A word letter by letter."""
    word = rng.choice(tables.words)
    return question(ask(rng, tables, "spell", key=word), f"It is spelled {spaced(list(word))}")


def recall_name(rng: Random, tables: Tables) -> Exchange:
    """The user's name, given up to two exchanges earlier."""
    name = rng.choice(tables.names)
    intro = rng.choice(tables.questions["introduce"]).format(key=name)
    opening = question(intro, f"Nice to meet you, {name}!")
    closing = question(ask(rng, tables, "recall_name"), f"Your name is {name}.")
    return _with_fillers(rng, tables, opening, rng.choice((0, 0, 1, 2)), closing)


def recall_favorite(rng: Random, tables: Tables) -> Exchange:
    """A word that the user called a favourite earlier."""
    word, kind = rng.choice(tables.words), rng.choice(FAVORITE_KINDS)
    fact = f"favorite {kind} is {word}."
    opening = question(f"My {fact}", f"Noted: your {fact}")
    closing = question(ask(rng, tables, "recall_favorite", kind=kind), f"Your {fact}")
    return _with_fillers(rng, tables, opening, rng.choice((0, 1)), closing)


def tool_call(rng: Random, tables: Tables) -> Exchange:
    """A call of one of up to four tools on offer, sometimes with its result."""
    names = list(tables.tools)
    tools = tuple(rng.sample(names, rng.randint(1, len(names))))
    chosen = rng.choice(tools)
    makers = {
        "get_weather": _weather,
        "get_time": _time,
        "calculator": _calculator,
        "search": _search,
    }
    text, arguments, result, spoken = makers[chosen](rng, tables)
    messages: tuple[Message, ...] = (user(text), assistant(tool_call_text(chosen, arguments)))
    if result and rng.random() < TOOL_RESULT_SHARE:
        reply: Message = {"role": "tool", "content": json.dumps(result)}
        messages += (reply, assistant(spoken))
    return Exchange(messages, tools)


def tool_call_text(name: str, arguments: dict[str, str]) -> str:
    """How the models write a call: the template renders structured calls to the same text."""
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


ToolTurn = tuple[str, dict[str, str], dict[str, object], str]
"""Question, arguments of the call, result of the tool (empty: none), answer after it."""


def _weather(rng: Random, tables: Tables) -> ToolTurn:
    city, degrees, sky = rng.choice(tables.cities), rng.randint(-9, 39), rng.choice(tables.skies)
    spoken = f"It is {degrees} degrees and {sky} in {city}."
    result: dict[str, object] = {"temp": degrees, "sky": sky}
    return ask(rng, tables, "weather", city=city), {"city": city}, result, spoken


def _time(rng: Random, tables: Tables) -> ToolTurn:
    city, clock = rng.choice(tables.cities), f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    text = ask(rng, tables, "time", city=city)
    return text, {"city": city}, {"time": clock}, f"It is {clock} in {city}."


def _calculator(rng: Random, tables: Tables) -> ToolTurn:
    a, sign, b = rng.randint(2, 999), rng.choice("+-*"), rng.randint(2, 999)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    expression = f"{a} {sign} {b}"
    text = ask(rng, tables, "calculate", expression=expression)
    spoken = f"The result is {value}."
    return text, {"expression": expression}, {"result": str(value)}, spoken


def _search(rng: Random, tables: Tables) -> ToolTurn:
    query = spaced([rng.choice(tables.words) for _ in range(rng.randint(1, 3))])
    return ask(rng, tables, "search", query=query), {"query": query}, {}, ""


FILLERS = (small_talk, capital, opposite, add_digits, color)


def _with_fillers(
    rng: Random, tables: Tables, opening: Exchange, filler_count: int, closing: Exchange
) -> Exchange:
    messages = opening.messages
    for _ in range(filler_count):
        messages += _filler(rng, tables).messages
    return Exchange(messages + closing.messages)


def _filler(rng: Random, tables: Tables) -> Exchange:
    """An exchange to stand between two others; held-out prompts must not hide in there."""
    while True:
        exchange = rng.choice(FILLERS)(rng, tables)
        if not is_held_out(exchange.prompt):
            return exchange


EASY_TASKS = (
    Task("small_talk", Level.EASY, 2.5, small_talk),
    Task("capital", Level.EASY, 1.5, capital),
    Task("symbol", Level.EASY, 1.2, symbol),
    Task("opposite", Level.EASY, 1.2, opposite),
    Task("color", Level.EASY, 0.8, color),
    Task("young", Level.EASY, 1.0, young),
    Task("neighbour", Level.EASY, 1.6, neighbour),
    Task("add_digits", Level.EASY, 4.0, add_digits),
    Task("convert", Level.EASY, 0.9, convert),
    Task("copy", Level.EASY, 1.5, copy),
    Task("spell", Level.EASY, 1.2, spell),
    Task("recall_name", Level.EASY, 2.0, recall_name),
    Task("recall_favorite", Level.EASY, 1.0, recall_favorite),
    Task("tool_call", Level.EASY, 3.5, tool_call),
)
