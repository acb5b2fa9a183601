"""The architecture's rules, read off the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Which of our packages each may import, and which libraries golf_core may.
OURS = {"golf_core": set[str](), "orchestrator": {"golf_core"}, "dashboards": {"golf_core", "orchestrator"}}
IN_CORE = {"torch", "numpy", "sentencepiece", "triton"}
# And who alone may import what else.
ALONE_IN_CORE = {"python_minifier": "golf_core/artifact/program.py"}
MODULES = sorted(path for name in OURS for path in (REPO / name).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Top-level names of everything a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(REPO)))
def test_dependencies_point_one_way(path: Path) -> None:
    house = path.relative_to(REPO).parts[0]
    forbidden = set(OURS) - {house} - OURS[house]
    assert not imports(path) & forbidden


def test_golf_core_needs_few_libraries() -> None:
    for path in (REPO / "golf_core").rglob("*.py"):
        place = path.relative_to(REPO).as_posix()
        alone = {name for name, home in ALONE_IN_CORE.items() if home == place}
        assert imports(path) - sys.stdlib_module_names <= IN_CORE | {"golf_core"} | alone, place


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(REPO)))
def test_nothing_is_read_from_the_environment_at_import(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            assert not names & {"environ", "environb", "getenv"}


def test_ray_is_kept_behind_a_few_modules() -> None:
    """Another scheduler would replace these alone."""
    users = {path.stem for path in (REPO / "orchestrator").rglob("*.py") if "ray" in imports(path)}
    assert users <= {"cluster", "gang", "submit", "follow", "ray_metrics"}
