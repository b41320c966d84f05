"""Writes docs/configuration.md from the services' Settings classes and docs/reference_options.toml.

`python tools/generate_config_docs.py` writes the page; `--check` only compares and exits 1 when
the page is out of date.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shoal_common.settings import (
    CONFIG_VARIABLE,
    SERVICES,
    Option,
    ServiceSettings,
    options,
    to_toml,
    variable_of,
)

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
REFERENCE = ROOT / "docs" / "reference_options.toml"

_INTRODUCTION = """\
# Configuration

<!-- Written by tools/generate_config_docs.py; change a settings.py or reference_options.toml. -->

A setting is looked up in this order: flag, environment variable, `.env` in the data folder or the
working folder, `config.toml`, default. The file is `<data dir>/config.toml` unless `--config` or
`SHOAL_CONFIG` names another; it has one section per service and `[fleet]` for what they share.
Flags are the names of the options with hyphens, `--drain-timeout-s 5`; secrets have no flag,
because every user of a machine can read the command lines on it. Lists are comma-separated or
JSON, tables are JSON. `--print-settings` prints what is in effect, and where each value came from,
with secrets hidden. A variable that starts with `SHOAL_` and that nobody reads is an error, so
that a misspelt name does not pass silently; the variables that Kubernetes injects for Services
(`SHOAL_ROUTER_PORT=tcp://...`) are not taken for ours.
"""
_REFERENCE_INTRODUCTION = """\
## Coming from another system

Every option of SwarmLLM, Relay and the entropy gateway, and what it is called here. *Planned*
names belong to features that are not built yet; ours are refused until then.
"""


def main(argv: list[str] | None = None) -> int:
    """Write or check the page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args(argv)
    classes = load_classes()
    for service in SERVICES:
        if service not in classes:
            print(f"notice: {service} has no settings.py yet: skipped", file=sys.stderr)
    page = render_page(classes, load_reference())
    if not arguments.check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).name}", file=sys.stderr)
    return 1


def load_classes() -> dict[str, type[ServiceSettings]]:
    """The Settings class of every service that has one, by service name."""
    found = {}
    for service in SERVICES:
        name = f"shoal_{service}.settings"
        if importlib.util.find_spec(name) is not None:
            found[service] = importlib.import_module(name).Settings
    return found


def load_reference() -> dict[str, Any]:
    with REFERENCE.open("rb") as file:
        return tomllib.load(file)


def render_page(classes: Mapping[str, type[ServiceSettings]], reference: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    parts = [_INTRODUCTION, _fleet_section()]
    parts += [_service_section(service, classes[service]) for service in sorted(classes)]
    parts.append(_REFERENCE_INTRODUCTION)
    built = built_options(classes)
    accepted = accepted_options(classes)
    parts += [_document_section(document, built, accepted) for document in reference.values()]
    return "\n".join(parts)


def built_options(classes: Mapping[str, type[ServiceSettings]]) -> dict[str, Option]:
    """Every option that exists, by variable; the fleet's count even when no service does."""
    everyone: list[type[ServiceSettings]] = [ServiceSettings, *classes.values()]
    known = [option for cls in everyone for option in options(cls)]
    return {option.variable: option for option in known if option.section}


def accepted_options(classes: Mapping[str, type[ServiceSettings]]) -> dict[str, str]:
    """The variable of every option that is accepted without effect, by the option's name."""
    return {
        name: variable_of(service, name)
        for service, cls in classes.items()
        for name in cls.without_effect
    }


def reference_rows(
    document: Mapping[str, Any],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Section, option and entry of every option of one reference document."""
    for section, entries in document["sections"].items():
        for name, entry in entries.items():
            yield section, name, entry


def targets(entry: Mapping[str, Any]) -> list[str]:
    """The Shoal names that an entry leads to; none when it was replaced."""
    to = entry.get("to", [])
    return [to] if isinstance(to, str) else list(to)


def _fleet_section() -> str:
    shared = [option for option in options(ServiceSettings) if option.section == "fleet"]
    return "## Shared by all services: `[fleet]`\n\n" + _options_table(shared)


def _service_section(service: str, cls: type[ServiceSettings]) -> str:
    own = [option for option in options(cls) if option.section == service]
    page = f"## {service.replace('_', '-')}: `[{service}]`\n\n" + _options_table(own)
    if not cls.without_effect:
        return page
    rows = [
        (f"`{name}`", f"`{variable_of(service, name)}`", instead)
        for name, instead in cls.without_effect.items()
    ]
    head = ("Option", "Variable", "Replaced by")
    return page + "\nAccepted without effect, with a notice at start:\n\n" + _table(head, rows)


def _options_table(rows: Iterable[Option]) -> str:
    cells = [
        (
            f"`{option.name}`",
            ", ".join(f"`{name}`" for name in (option.variable, *option.also_reads)),
            type_name(option.info.annotation),
            default_text(option.info),
            (option.info.description or "").replace("\n", " "),
        )
        for option in rows
    ]
    return _table(("Option", "Variable", "Type", "Default", "Meaning"), cells)


def _document_section(
    document: Mapping[str, Any], built: Mapping[str, Option], accepted: Mapping[str, str]
) -> str:
    parts = [f"### {document['title']}\n\n{document['about']}\n"]
    for section, entries in document["sections"].items():
        cells = [
            (
                f"`{name}`",
                _code(entry["default"]),
                _destination(entry, built),
                _ours(name, entry, built, accepted),
            )
            for name, entry in entries.items()
        ]
        table = _table(("Option", "Was", "Here", "Default and notes"), cells)
        parts.append(f"#### {section}\n\n{table}")
    return "\n".join(parts)


def _destination(entry: Mapping[str, Any], built: Mapping[str, Option]) -> str:
    if "instead" in entry:
        return f"replaced by {entry['instead']}, because {entry['because']}"
    is_marked = entry.get("planned", False)
    return ", ".join(
        f"`{name}` (planned)" if is_marked or is_planned(name, built) else f"`{name}`"
        for name in targets(entry)
    )


def is_planned(name: str, built: Mapping[str, Option]) -> bool:
    """Whether `name` is a variable of ours that no service reads yet."""
    return name.startswith("SHOAL_") and name != CONFIG_VARIABLE and name not in built


def _ours(
    name: str,
    entry: Mapping[str, Any],
    built: Mapping[str, Option],
    accepted: Mapping[str, str],
) -> str:
    if "instead" in entry:
        return f"`{accepted[name]}` is accepted without effect" if name in accepted else ""
    option = built.get(targets(entry)[0])
    if option is not None:
        default = default_text(option.info)
    elif targets(entry)[0].startswith("SHOAL_"):
        default = _code(entry.get("value", entry["default"]))
    else:
        default = ""
    return "; ".join(part for part in (default, entry.get("note", "")) if part)


def default_text(info: FieldInfo) -> str:
    """A default as the page shows it, the same on every machine."""
    if info.is_required():
        return "required"
    if info.default_factory in (list, dict, tuple, set, frozenset):
        return "empty"
    if info.default_factory is not None:
        return "computed"
    value = info.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "not set"
    if value in ("", (), [], {}, frozenset()):
        return "empty"
    return f"`{value if isinstance(value, str | Path) else to_toml(value)}`"


def type_name(annotation: Any) -> str:
    """A type in the words of a reader, not of Python."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(type_name(part) for part in arguments if part is not type(None))
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"table of {type_name(arguments[1])}"
    if hasattr(annotation, "__metadata__"):
        return type_name(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path"}
    return names.get(annotation, "secret" if annotation is SecretStr else annotation.__name__)


def _code(text: str) -> str:
    return f"`{text}`" if " " not in text and text != "empty" else text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in lines)


if __name__ == "__main__":
    sys.exit(main())
