"""Style as failing tests: lengths, the environment, dead files, banned calls."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500


@cache
def sources() -> tuple[Path, ...]:
    """Python files of the project, generated code excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = tuple(ROOT / name for name in listed if not name.startswith("protos/gen/"))
    assert files
    return tuple(path for path in files if path.exists())


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(ROOT).parts or path.name == "conftest.py"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_functions_are_short() -> None:
    long = [
        f"{name_of(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, f"split these into steps with names (at most {FUNCTION_LINES_MAX}): {long}"


def test_files_are_short() -> None:
    long = [
        f"{name_of(path)} has {count} lines"
        for path in sources()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]
    assert not long, f"give a noun of these a file of its own (at most {FILE_LINES_MAX}): {long}"


def test_the_environment_is_read_in_settings_only() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        if path.name != "settings.py" and not is_test(path)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert not found, f"read the environment in settings.py and pass the value down: {found}"


def test_nothing_unpickles() -> None:
    found = []
    for path in sources():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                module = getattr(node, "module", None) or ""
                if "pickle" in [*names, module]:
                    found.append(f"{name_of(path)}:{node.lineno}")
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "load"
                and isinstance(node.value, ast.Name)
                and node.value.id == "torch"
            ):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found, f"pickle runs code from a file; use safetensors or protobuf: {found}"


def test_no_file_is_called_utils() -> None:
    found = [
        name_of(path) for path in sources() if path.stem in {"utils", "util", "helpers", "misc"}
    ]
    assert not found, f"name these after what they are about: {found}"


def test_nothing_is_left_for_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error")
    found = [
        f"{name_of(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert not found, f"finish these or take them out: {found}"


def test_tests_do_not_sleep() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        if is_test(path)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"time", "asyncio"}
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]
    assert not found, f"wait for an event or use the fake clock: {found}"


def imported_modules() -> set[str]:
    found: set[str] = set()
    for path in sources():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_is_imported_somewhere() -> None:
    """A file that nothing imports and nothing runs is dead."""
    imported = imported_modules()
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    dead = []
    for path in sources():
        parts = path.relative_to(ROOT).parts
        package = next((i for i, part in enumerate(parts) if part.startswith("shoal_")), None)
        if package is None or is_test(path) or path.name in {"__init__.py", "__main__.py"}:
            continue
        module = ".".join([*parts[package:-1], path.stem])
        # Programs of their own are named in the command line that starts them.
        is_entry = path.name in {"app.py", "main.py", "settings.py"} or f'"{module}"' in text
        if not is_entry and module not in imported:
            dead.append(name_of(path))
    assert not dead, f"nothing imports these: {dead}"


def test_services_have_the_same_rooms() -> None:
    missing = []
    for service in sorted((ROOT / "services").iterdir()):
        package = service / f"shoal_{service.name.replace('-', '_')}"
        wanted = [service / "README.md", package / "__init__.py", package / "settings.py"]
        missing += [name_of(path) for path in wanted if not path.exists()]
    assert not missing, f"every service has these: {missing}"
