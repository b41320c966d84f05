"""Writes a calibrated gate into a `config.toml` and leaves every other line of it alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal_cli.errors import BadOptions

if TYPE_CHECKING:
    from shoal_entropy_drafter.calibration.report import Calibration

SECTION = "entropy_drafter"


def options_of(calibration: Calibration) -> dict[str, Any]:
    """The settings of the entropy-drafter that a calibration decides, by their names there."""
    judging = calibration.judging
    return {
        "threshold_bits": calibration.threshold,
        "window_size": judging.window_size,
        "early_exit_count": judging.early_exit_count,
        "top_logprobs": judging.candidate_count,
        "statistic": judging.statistic,
        "entropy_estimate": judging.estimate,
        "calibrated_for": calibration.drafter,
    }


def write_options(path: Path, options: Mapping[str, Any]) -> Path | None:
    """Set `options` in the section, readers seeing the old file or the new one.

    Returns the copy of the old file, `<name>.bak`, None where there was none. A link is followed.
    Raises BadOptions for a file that is not TOML, OSError.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = path.expanduser().resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    old: bytes | None = None
    with contextlib.suppress(FileNotFoundError):
        old = path.read_bytes()
    try:
        document = tomlkit.parse((old or b"").decode("utf-8"))
        section = document.setdefault(SECTION, tomlkit.table())
        for name, value in options.items():
            section[name] = value
        text = tomlkit.dumps(document)
    except (TOMLKitError, UnicodeDecodeError, TypeError, AttributeError) as err:
        raise BadOptions(
            f"{path} cannot be changed ({err}): mend it, name another with --config, or leave it "
            "alone with --no-write"
        ) from err
    backup = None
    if old is not None:
        backup = path.with_name(f"{path.name}.bak")
        _replace(backup, old, _mode(path))
    _replace(path, text.encode(), _mode(path))
    return backup


def _mode(path: Path) -> int:
    """Of the file; a new one, which may come to hold keys, is for its owner alone."""
    return path.stat().st_mode & 0o777 if path.exists() else 0o600


def _replace(path: Path, data: bytes, mode: int) -> None:
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    staged.replace(path)
