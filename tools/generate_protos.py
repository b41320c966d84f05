"""Generate protos/gen from protos/shoal, or check that it is current.

Owns the one command line of the generator. `--check` generates into a temporary folder and
compares, so that generated code in the repository never drifts from the contracts.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent.parent / "protos"


def generate(out: Path) -> None:
    """Write `_pb2.py`, `_pb2.pyi` and `_pb2_grpc.py` for every contract below `out`."""
    protos = sorted(str(p.relative_to(PROTO_ROOT)) for p in PROTO_ROOT.glob("shoal/**/*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={PROTO_ROOT}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *protos,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; the lines above name the file")
    for folder in sorted({out / Path(p).parent for p in protos} | {out / "shoal"}):
        (folder / "__init__.py").touch()
        if folder.parent != out and folder != out / "shoal":
            (folder.parent / "__init__.py").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Relative paths that differ between two trees, or stand in only one of them."""
    names = {p.relative_to(root) for root in (left, right) for p in root.rglob("*.py*")}
    names = {name for name in names if "__pycache__" not in name.parts}
    return sorted(
        str(name)
        for name in names
        if not ((left / name).is_file() and (right / name).is_file())
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check: bool = parser.parse_args().check
    gen = PROTO_ROOT / "gen"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        stale = differences(fresh / "shoal", gen / "shoal")
        if check:
            for name in stale:
                print(f"protos/gen/shoal/{name} is not current; run `make proto`", file=sys.stderr)
            return 1 if stale else 0
        shutil.rmtree(gen / "shoal", ignore_errors=True)
        shutil.copytree(fresh / "shoal", gen / "shoal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
