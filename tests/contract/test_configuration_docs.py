"""docs/configuration.md says what the code reads, and names every option of the reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal_common.settings import SERVICES, ServiceSettings, options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = ROOT / "tools" / "generate_config_docs.py"
    spec = importlib.util.spec_from_file_location("generate_config_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classes(generator: ModuleType) -> dict[str, type[ServiceSettings]]:
    loaded: dict[str, type[ServiceSettings]] = generator.load_classes()
    return loaded


def _entries(generator: ModuleType) -> list[tuple[str, str, dict[str, Any]]]:
    documents = generator.load_reference().values()
    return [row for document in documents for row in generator.reference_rows(document)]


def test_the_page_is_up_to_date(generator: ModuleType) -> None:
    page = generator.render_page(generator.load_classes(), generator.load_reference())
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page, "run tools/generate_config_docs.py"


def test_check_fails_when_a_setting_is_missing_from_the_page(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "configuration.md"
    monkeypatch.setattr(generator, "PAGE", stale)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    stale.write_text(stale.read_text().replace("SHOAL_DATA_DIR", "SHOAL_DATA"))
    assert generator.main(["--check"]) == 1


def test_every_option_of_the_reference_has_its_row(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")}
    missing = [name for _, name, _ in _entries(generator) if f"| `{name}`" not in rows]
    assert missing == []


def test_every_option_leads_somewhere_or_says_why_not(generator: ModuleType) -> None:
    for section, name, entry in _entries(generator):
        where = f"{section}.{name}"
        assert entry.get("default"), where
        assert bool(generator.targets(entry)) != ("instead" in entry), where
        assert ("instead" in entry) == ("because" in entry), where
        assert not entry.keys() - {
            "default", "to", "value", "planned", "note", "instead", "because",
        }, where  # fmt: skip


def test_every_future_name_belongs_to_a_service(
    generator: ModuleType, classes: dict[str, type[ServiceSettings]]
) -> None:
    built = generator.built_options(classes)
    prefixes = tuple(f"SHOAL_{service.upper()}_" for service in SERVICES)
    for _, name, entry in _entries(generator):
        for target in generator.targets(entry):
            if generator.is_planned(target, built):
                assert target.startswith(prefixes), f"{name}: {target}"


def test_what_is_built_is_not_marked_as_planned(
    generator: ModuleType, classes: dict[str, type[ServiceSettings]]
) -> None:
    built = generator.built_options(classes)
    for _, name, entry in _entries(generator):
        if entry.get("planned"):
            assert not set(generator.targets(entry)) & built.keys(), name


def test_every_setting_of_every_service_is_documented(
    classes: dict[str, type[ServiceSettings]],
) -> None:
    bare = [o.variable for cls in classes.values() for o in options(cls) if not o.info.description]
    assert bare == []


def test_defaults_read_the_same_on_every_machine(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert str(Path.home()) + "/" not in page
