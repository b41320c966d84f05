"""The eleven hard tasks: rarer facts, arithmetic, letters in order, word problems."""

from random import Random
from string import ascii_lowercase

from recipe.chat import Exchange, question
from recipe.tables import Tables
from recipe.task import Level, Task, ask, spaced

GAINS = ("buys", "finds", "gets")
LOSSES = ("sells", "loses", "gives away")


def capital_other(rng: Random, tables: Tables) -> Exchange:
    """Capital of a less-known country."""
    country, city = rng.choice(tables.capitals_other)
    return question(
        ask(rng, tables, "capital", key=country), f"The capital of {country} is {city}."
    )


def atomic_number(rng: Random, tables: Tables) -> Exchange:
    """Atomic number of an element."""
    index = rng.randrange(len(tables.elements))
    element = tables.elements[index][0]
    text = ask(rng, tables, "atomic_number", key=element)
    return question(text, f"The atomic number of {element} is {index + 1}.")


def station(rng: Random, tables: Tables) -> Exchange:
    """Code of an invented station."""
    name, code = rng.choice(tables.stations)
    return question(ask(rng, tables, "station", key=name), f"The code of station {name} is {code}.")


def add_two_digits(rng: Random, tables: Tables) -> Exchange:
    """Sum of two-digit numbers, answered at once."""
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return question(ask(rng, tables, "add", a=a, b=b), f"{a} + {b} = {a + b}.")


def add_three_digits(rng: Random, tables: Tables) -> Exchange:
    """Sum of three-digit numbers, worked out digit by digit with the carry."""
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    carry, steps = 0, []
    for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}+{carry}={total}")
        carry = total // 10
    answer = f"{a} + {b}: {', '.join(steps)}. So {a + b}."
    return question(ask(rng, tables, "add", a=a, b=b), answer)


def multiply(rng: Random, tables: Tables) -> Exchange:
    """Product of a number up to 25 and a digit."""
    a, b = rng.randint(11, 25), rng.randint(2, 9)
    return question(ask(rng, tables, "multiply", a=a, b=b), f"{a} x {b} = {a * b}.")


def weekday(rng: Random, tables: Tables) -> Exchange:
    """Day of the week some days later."""
    start, n = rng.randrange(7), rng.randint(2, 20)
    text = ask(rng, tables, "weekday", n=n, key=tables.days[start])
    found = tables.days[(start + n) % 7]
    return question(text, f"{n} days after {tables.days[start]} is {found}.")


def reverse(rng: Random, tables: Tables) -> Exchange:
    """Four to seven letters backwards."""
    letters = [rng.choice(ascii_lowercase) for _ in range(rng.randint(4, 7))]
    text = ask(rng, tables, "reverse", text=spaced(letters))
    return question(text, f"Reversed: {spaced(letters[::-1])}")


def sort(rng: Random, tables: Tables) -> Exchange:
    """Four to seven different letters in alphabetical order."""
    letters = rng.sample(ascii_lowercase, rng.randint(4, 7))
    text = ask(rng, tables, "sort", text=spaced(letters))
    return question(text, f"Sorted: {spaced(sorted(letters))}")


def count(rng: Random, tables: Tables) -> Exchange:
    """How often a letter occurs among five to nine."""
    letter, other = rng.sample("abcde", 2)
    letters = [
        rng.choice((letter, letter, other, other, rng.choice(ascii_lowercase)))
        for _ in range(rng.randint(5, 9))
    ]
    text = ask(rng, tables, "count", letter=letter, text=spaced(letters))
    return question(text, f"The letter {letter} occurs {letters.count(letter)} times.")


def word_problem(rng: Random, tables: Tables) -> Exchange:
    """A sum or a difference told as a story."""
    name, things = rng.choice(tables.names), rng.choice(tables.things)
    a, b = rng.randint(5, 30), rng.randint(2, 19)
    if rng.random() < 0.5:
        verb, total = rng.choice(GAINS), a + b
        text = f"{name} has {a} {things} and {verb} {b} more. How many {things} has {name}?"
        return question(text, f"{a} + {b} = {total}. {name} has {total} {things}.")
    b = min(b, a - 1)
    verb, left = rng.choice(LOSSES), a - b
    text = f"{name} has {a} {things} and {verb} {b}. How many {things} are left?"
    return question(text, f"{a} - {b} = {left}. {name} has {left} {things}.")


HARD_TASKS = (
    Task("capital_other", Level.HARD, 5.0, capital_other),
    Task("atomic_number", Level.HARD, 4.0, atomic_number),
    Task("station", Level.HARD, 4.0, station),
    Task("add_two_digits", Level.HARD, 2.5, add_two_digits),
    Task("add_three_digits", Level.HARD, 2.0, add_three_digits),
    Task("multiply", Level.HARD, 2.0, multiply),
    Task("weekday", Level.HARD, 1.5, weekday),
    Task("reverse", Level.HARD, 1.5, reverse),
    Task("sort", Level.HARD, 1.5, sort),
    Task("count", Level.HARD, 1.0, count),
    Task("word_problem", Level.HARD, 1.5, word_problem),
)
