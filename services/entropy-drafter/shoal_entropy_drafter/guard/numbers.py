"""Numbers and units in one spelling each: `1,000`, `1000` and `one thousand` are equal, `3.10` and
`3.1` are not, for one may be a version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = (
    "first - third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
BELOW_HUNDRED: Mapping[str, int] = {
    **{word: value for value, word in enumerate(_SMALL.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}
SCALES: Mapping[str, int] = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# `second` is a time as well and stays a word.
ORDINALS: Mapping[str, str] = {
    word: f"#{value}" for value, word in enumerate(_ORDINALS.split(), start=1) if word != "-"
}
ROMAN: Mapping[str, str] = {
    tens + ones: str(10 * ten + one)
    for ten, tens in enumerate(("", "X", "XX", "XXX"))
    for one, ones in enumerate(("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"))
    if len(tens + ones) > 1
}

_CURRENCIES = "$€£¥₹"
_NUMBER = re.compile(
    r"(?P<sign>[-−+±]?)(?P<currency>[$€£¥₹]?)"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?)"
    r"(?P<unit>%|°[CF]?|[$€£¥₹]|[A-Za-zµμΩ]{1,12})?"
)
_ORDINAL_ENDINGS = ("st", "nd", "rd", "th")  # codespell:ignore


def _units(lines: str) -> Mapping[str, str]:
    """Each spelling of a line stands for its first; the first itself is one."""
    rows = (line.split() for line in lines.strip().splitlines())
    return {word: row[0] for row in rows for word in row}


# Case counts: Mb is not MB, C not c.
SYMBOLS: Mapping[str, str] = _units("""
km kms
m
cm
mm
mi
ft
yd
kg kgs
g
mg
mcg µg μg
lb lbs
oz
l L
ml mL
gal
sec s secs
minute min mins
hour h hr hrs
%
°
°C C
°F F
K
kB
KB
MB
GB
TB
kb
Kb
Mb
Gb
Tb
W
kW
V
A
mA
Hz
kHz
MHz
GHz
mph
kmh
$
€
£
¥
₹
""")
NAMES: Mapping[str, str] = _units("""
km kilometer kilometers kilometre kilometres
m meter meters metre metres
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
mi mile miles
ft foot feet
inch inches
yd yard yards
kg kilogram kilograms kilo kilos
g gram grams
mg milligram milligrams
oz ounce ounces
l liter liters litre litres
ml milliliter milliliters millilitre millilitres
gal gallon gallons
pound pounds
sec seconds
minute minutes
hour hours
day days
week weeks
month months
year years
decade decades
% percent
° degree degrees
°C celsius
°F fahrenheit
GB gigabyte gigabytes
MB megabyte megabytes
KB kilobyte kilobytes
TB terabyte terabytes
$ dollar dollars
€ euro euros
¥ yen
₹ rupee rupees
W watt watts
V volt volts
cup cups
tablespoon tablespoons tbsp
teaspoon teaspoons tsp
""")


def written(chunk: str) -> tuple[str, str] | None:
    """(number, unit) of a number in digits; None for anything else. Unit "" where none follows."""
    match = _NUMBER.fullmatch(chunk)
    if match is None:
        return None
    sign = match["sign"].replace("−", "-").replace("+", "")
    value = sign + match["digits"].replace(",", "")
    unit, currency = match["unit"] or "", match["currency"]
    if unit.lower() in _ORDINAL_ENDINGS and not currency:
        return f"#{value}", ""
    if currency and unit:
        return value, currency + unit
    return value, currency or (unit_of(unit) or unit)


def unit_of(word: str) -> str:
    """The one spelling of a unit that stands after a number; "" for other words."""
    return SYMBOLS.get(word) or NAMES.get(word.lower(), "")


def spelled(words: Sequence[str]) -> list[str]:
    """Values of number words in a row: (two, hundred, five) is 205, (nineteen, eighty) two."""
    values: list[str] = []
    total, current, is_open = 0, 0, False
    for word in words:
        scale = SCALES.get(word)
        if scale is None:
            value = BELOW_HUNDRED[word]
            if is_open and not _takes(total, current, value):
                values.append(str(total + current))
                total, current = 0, 0
            current += value
        elif scale == 100 and current < 10:
            current = max(current, 1) * 100
        elif not is_open or (0 < current < 1000 and (total == 0 or total % (scale * 1000) == 0)):
            total, current = total + max(current, 1) * scale, 0
        else:
            values += [str(total + current), str(scale)]
            total, current, is_open = 0, 0, False
            continue
        is_open = True
    return [*values, str(total + current)] if is_open else values


def _takes(total: int, current: int, value: int) -> bool:
    """Whether `value` continues a number so far: forty takes two, four does not."""
    if current == 0:
        return total > 0 and value > 0
    if value < 10:
        return value > 0 and current % 10 == 0 and current % 100 != 10
    return current % 100 == 0


def is_spelled(words: Iterable[str]) -> bool:
    return all(word in BELOW_HUNDRED or word in SCALES for word in words)
