"""Values for the blanks of the templates. Each list is dealt out in turn to the two halves of the
set, so that what a guard was tuned on shares no value with what is reported."""

from __future__ import annotations

from collections.abc import Mapping


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


SLOTS: Mapping[str, tuple[str, ...]] = {
    "app": _listed(
        "Outlook|Thunderbird|Photoshop|Zoom|Spotify|Firefox|Dropbox|Trello|Excel|Blender|Steam|"
        "Notion|WhatsApp|Jira|Figma|Chrome|Evernote|Skype|Telegram|Audacity|GIMP|Discord|"
        "LibreOffice|Obsidian"
    ),
    "system": _listed(
        "Windows|Ubuntu|macOS|Android|Debian|Fedora|iOS|FreeBSD|ChromeOS|Solaris|Raspbian|CentOS"
    ),
    "city": _listed(
        "Lisbon|Vienna|Osaka|Lima|Cairo|Toronto|Prague|Nairobi|Madrid|Boston|Seoul|Athens|Oslo|"
        "Quito|Dublin|Mumbai|Zurich|Hanoi|Denver|Bogota|Porto|Krakow|Sydney|Havana"
    ),
    "country": _listed(
        "Portugal|Austria|Japan|Peru|Egypt|Canada|Norway|Kenya|Spain|Ireland|Vietnam|Greece|"
        "Ecuador|India|Poland|Iceland|Chile|Morocco|Finland|Thailand|Brazil|Hungary|Nepal|"
        "Denmark"
    ),
    "language": _listed(
        "French|German|Spanish|Italian|Dutch|Portuguese|Swedish|Polish|Greek|Turkish|Japanese|"
        "Korean|Arabic|Hindi|Finnish|Czech"
    ),
    "person": _listed(
        "Marie Curie|Isaac Newton|Ada Lovelace|Charles Darwin|Frida Kahlo|Nelson Mandela|"
        "Jane Austen|Johannes Kepler|Rosa Parks|Leonardo Fibonacci|Amelia Earhart|Max Planck|"
        "Clara Schumann|Niels Bohr|Emily Dickinson|Alan Turing"
    ),
    "name": _listed(
        "Anna|Boris|Carla|Dmitri|Elena|Felix|Greta|Henry|Irina|Julia|Karim|Lucia|Marco|Nadia|"
        "Oscar|Paula|Quentin|Rita|Stefan|Tanya"
    ),
    "dish": _listed(
        "lasagna|pancakes|risotto|ramen|goulash|paella|brownies|hummus|pad thai|sourdough bread|"
        "tiramisu|falafel|carbonara|moussaka|chili con carne|apple pie|gnocchi|focaccia|"
        "shakshuka|pumpkin soup"
    ),
    "ingredient": _listed(
        "butter|flour|sugar|rice|honey|garlic|basil|yeast|milk|olive oil|ginger|cinnamon|salt|"
        "paprika|lentils|spinach|tofu|oats|cocoa|vinegar"
    ),
    "drug": _listed(
        "ibuprofen|paracetamol|aspirin|amoxicillin|metformin|omeprazole|cetirizine|loratadine|"
        "naproxen|diclofenac|lisinopril|atorvastatin|sertraline|warfarin|codeine|"
        "melatonin"
    ),
    "illness": _listed(
        "asthma|migraine|anaemia|diabetes|gout|eczema|bronchitis|hay fever|shingles|measles|"
        "psoriasis|arthritis|tonsillitis|insomnia|pneumonia|hypertension"
    ),
    "program": _listed(
        "Python|Rust|Java|Kotlin|Ruby|Haskell|TypeScript|Perl|Swift|Scala|Elixir|Julia|PHP|Lua|"
        "Erlang|Fortran"
    ),
    "structure": _listed(
        "list|dictionary|string|array|tuple|queue|set|tree|stack|matrix|linked list|heap"
    ),
    "account": _listed(
        "savings account|credit card|checking account|debit card|mortgage|pension fund|"
        "brokerage account|student loan|car loan|business account|joint account|"
        "travel card"
    ),
    "contract": _listed(
        "lease|employment contract|prenuptial agreement|will|power of attorney|"
        "loan agreement|insurance policy|purchase contract|partnership agreement|"
        "non-disclosure agreement|franchise agreement|rental agreement"
    ),
    "device": _listed(
        "laptop|printer|router|phone|tablet|monitor|webcam|keyboard|scanner|projector|"
        "smart TV|headset|dishwasher|thermostat"
    ),
    "shape": _listed(
        "triangle|circle|square|rectangle|hexagon|pentagon|sphere|cylinder|cone|cube|"
        "trapezoid|rhombus"
    ),
    "number": tuple(str(value) for value in range(3, 90)),
    "large": tuple(str(value) for value in range(110, 990, 7)),
    "year": tuple(str(value) for value in range(1901, 2024)),
    "amount": tuple(str(value) for value in range(150, 9950, 50)),
    "ordinal": tuple(f"{value}th" for value in range(4, 60) if value % 10 > 3 or 10 < value < 20),
    "hour": tuple(f"{hour}:{minute:02d}" for hour in range(1, 13) for minute in (0, 15, 30, 45)),
    "version": tuple(f"{major}.{minor}" for major in range(2, 9) for minor in range(0, 13)),
}
