"""One fleet per data folder; crashes and reused numbers do not lock it."""

import json
import os
from pathlib import Path

import psutil
import pytest

from shoal_cli import pids
from shoal_cli.errors import AlreadyRunning, DataDirUnusable, PortBusy

URL = "http://127.0.0.1:8800"


def write(folder: Path, pid: int, started_at: float) -> None:
    text = json.dumps({"pid": pid, "started_at": started_at, "url": URL})
    (folder / pids.PID_FILE).write_text(text)


def test_second_claim_says_what_runs_where(tmp_path: Path) -> None:
    pids.claim(tmp_path, URL)
    with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}, {URL}.*shoal down"):
        pids.claim(tmp_path, URL)


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    pids.claim(tmp_path / "new", URL)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirUnusable, match="--data-dir"):
            pids.claim(path, URL)


@pytest.mark.parametrize(("url", "port"), [(URL, 8800), ("u", None), ("http://a:b", None)])
def test_port_of_the_fleet(url: str, port: int | None) -> None:
    assert pids.Owner(1, 0.0, url).port == port


def test_release_frees_the_folder(tmp_path: Path) -> None:
    pids.claim(tmp_path, URL)
    pids.release(tmp_path)
    assert pids.read_owner(tmp_path) is None
    pids.claim(tmp_path, URL)
    assert [path.name for path in tmp_path.iterdir()] == [pids.PID_FILE]


def test_reused_process_number_is_not_taken_for_the_fleet(tmp_path: Path) -> None:
    write(tmp_path, os.getpid(), psutil.Process().create_time() - 1000)
    assert pids.read_owner(tmp_path) is None
    pids.claim(tmp_path, URL)


@pytest.mark.parametrize("content", ["", "12", "[]", '{"pid": "x"}'])
def test_damaged_pid_file_is_stale(tmp_path: Path, content: str) -> None:
    (tmp_path / pids.PID_FILE).write_text(content)
    pids.claim(tmp_path, URL)
    owner = pids.read_owner(tmp_path)
    assert owner is not None
    assert owner.pid == os.getpid()


def test_release_leaves_the_file_of_another(tmp_path: Path) -> None:
    parent = psutil.Process(os.getppid())
    write(tmp_path, parent.pid, parent.create_time())
    pids.release(tmp_path)
    assert pids.read_owner(tmp_path) is not None


def test_busy_port_is_named_with_a_remedy(busy_port: int) -> None:
    with pytest.raises(PortBusy, match=rf"port {busy_port} .*--port"):
        pids.check_port("127.0.0.1", busy_port)


def test_free_ports_differ_and_are_free() -> None:
    ports = pids.free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        pids.check_port("127.0.0.1", port)
