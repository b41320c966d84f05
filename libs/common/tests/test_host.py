"""A machine's processes agree on its id, and machines differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shoal_common.host import host_id


def test_another_process_says_the_same() -> None:
    code = "from shoal_common.host import host_id; print(host_id())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == host_id()


def test_the_first_file_that_says_something_counts_and_is_not_given_away(tmp_path: Path) -> None:
    first, second = tmp_path / "boot_id", tmp_path / "machine-id"
    second.write_text("two\n")
    by_second = host_id((first, second))
    first.write_text("\n")
    assert host_id((first, second)) == by_second
    first.write_text("one\n")
    assert host_id((first, second)) == host_id((first,)) != by_second
    assert "one" not in host_id((first,))


def test_a_machine_without_such_files_has_an_id_nonetheless(tmp_path: Path) -> None:
    ids = {host_id(()), host_id((tmp_path / "missing",))}
    assert len(ids) == 1
    assert len(ids.pop()) == 16
