"""The architecture's rules, read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Which of our packages each may import, and which libraries it may not.
OURS = {"golf_core": set[str](), "orchestrator": {"golf_core"}, "dashboards": {"golf_core", "orchestrator"}}
NOT_IN_CORE = {"ray", "mlflow", "pandas", "pydantic", "typer", "rich", "scipy", "yaml"}
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
    if house == "golf_core":
        forbidden |= NOT_IN_CORE
    assert not imports(path) & forbidden


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
