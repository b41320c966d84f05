"""Cuts a published OpenAPI document down to the operations that the gateway answers.

    python tools/trim_openapi.py openapi.yaml services/gateway/tests/data/openai_openapi.json

Keeps what those operations refer to; leaves out prose, examples and vendor extensions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

KEPT = {
    "/chat/completions": ("post",),
    "/completions": ("post",),
    "/embeddings": ("post",),
    "/models": ("get",),
    "/models/{model}": ("get",),
    "/responses": ("post",),
    "/responses/{response_id}": ("get", "delete"),
    "/responses/{response_id}/cancel": ("post",),
    "/responses/{response_id}/input_items": ("get",),
    "/responses/input_tokens": ("post",),
}
PROSE = frozenset({"description", "example", "examples", "summary", "tags", "externalDocs"})


def trimmed(document: dict[str, Any]) -> dict[str, Any]:
    """The same document with KEPT alone."""
    paths = {
        path: {method: bare(document["paths"][path][method]) for method in methods}
        for path, methods in KEPT.items()
    }
    components: dict[str, dict[str, Any]] = {}
    waiting = references(paths)
    while waiting:
        kind, name = waiting.pop()
        if name in components.get(kind, {}):
            continue
        part = bare(document["components"][kind][name])
        components.setdefault(kind, {})[name] = part
        waiting |= references(part)
    info = {key: document["info"][key] for key in ("title", "version", "license")}
    return {
        "openapi": document["openapi"],
        "info": info,
        "servers": [{"url": "/v1"}],
        "paths": paths,
        "components": {kind: dict(sorted(parts.items())) for kind, parts in components.items()},
    }


def bare(value: Any, is_table: bool = False) -> Any:
    """Without prose and extensions; names of properties are kept, whatever they are."""
    if isinstance(value, list):
        return [bare(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: bare(entry, is_table=key in ("properties", "responses") and not is_table)
        for key, entry in value.items()
        if is_table or not (key in PROSE or str(key).startswith("x-") or key == "security")
    }


def references(value: Any) -> set[tuple[str, str]]:
    """(kind, name) of every component that `value` names."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(references, value.values()))
    target = value.get("$ref")
    if isinstance(target, str):
        _, _, kind, name = target.split("/")
        found.add((kind, name))
    for mapped in (value.get("discriminator") or {}).get("mapping", {}).values():
        if str(mapped).startswith("#/"):
            _, _, kind, name = mapped.split("/")
            found.add((kind, name))
    return found


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(source.read_text(), Loader=loader)
    text = json.dumps(trimmed(document), indent=1, sort_keys=False, ensure_ascii=False)
    target.write_text(text + "\n")


if __name__ == "__main__":
    main()
