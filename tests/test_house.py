"""The architecture's rules, read off the source; a failure lists every offender."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
# Which of our packages each may import, and which libraries golf_core may.
OURS = {"golf_core": set[str](), "orchestrator": {"golf_core"}, "dashboards": {"golf_core", "orchestrator"}}
IN_CORE = {"torch", "numpy", "sentencepiece", "triton"}
# And who alone may import what else.
ALONE_IN_CORE = {"python_minifier": "golf_core/artifact/program.py"}
# A package of the service imports from its own level or from those below, and never from above.
LEVELS = {
    "job": 0,
    "folder": 1,
    "claim": 2,
    "data": 2,
    "verify": 3,
    "tracking": 3,
    "preflight": 3,
    "run": 4,
    "audit": 4,
    "package": 5,
    "submit": 5,
}
LONGEST, FULLEST = 450, 13
"""Lines of a module, and modules of a folder, at the most."""

MODULES = {
    path.relative_to(REPO): path.read_text(encoding="utf-8") for name in OURS for path in (REPO / name).rglob("*.py")
}
TREES = {path: ast.parse(text) for path, text in sorted(MODULES.items())}


def imports(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """The names, in parts, of everything a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def test_dependencies_point_one_way() -> None:
    wrong = []
    for path, tree in TREES.items():
        house = path.parts[0]
        forbidden = set(OURS) - {house} - OURS[house]
        wrong += [f"{path} imports {'.'.join(name)}" for name in imports(tree) if name[0] in forbidden]
    assert not wrong


def test_the_science_needs_few_libraries() -> None:
    wrong = []
    for path, tree in TREES.items():
        alone = {name for name, home in ALONE_IN_CORE.items() if home == path.as_posix()}
        allowed = IN_CORE | {"golf_core"} | alone | sys.stdlib_module_names
        names = imports(tree) if path.parts[0] == "golf_core" else ()
        wrong += [f"{path} imports {name[0]}" for name in names if name[0] not in allowed]
    assert not wrong


def test_inside_the_service_too() -> None:
    """What knows the job and the folder alone can be read without what runs it."""
    wrong = []
    for path, tree in TREES.items():
        own = LEVELS.get(path.parts[1]) if path.parts[0] == "orchestrator" else None
        for name in imports(tree):
            other = LEVELS.get(name[1]) if name[0] == "orchestrator" and len(name) > 1 else None
            if own is not None and other is not None and other > own:
                wrong.append(f"{path} imports {'.'.join(name)}, which stands above it")
    assert not wrong


def test_ray_is_kept_behind_a_few_modules() -> None:
    """Another scheduler would replace these alone."""
    users = {path.stem for path, tree in TREES.items() if any(name[0] == "ray" for name in imports(tree))}
    assert users <= {"cluster", "gang", "submit", "follow", "prometheus"}


def test_nothing_is_read_from_the_environment_at_import() -> None:
    wrong = []
    for path, tree in TREES.items():
        for node in tree.body:
            names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and names & {"environ", "environb", "getenv"}:
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_no_module_is_too_long_and_no_folder_too_full() -> None:
    lines = {path: text.count("\n") for path, text in MODULES.items()}
    assert not {str(path): count for path, count in lines.items() if count > LONGEST}
    folders = Counter(path.parent.as_posix() for path in MODULES)
    assert not {folder: count for folder, count in folders.items() if count > FULLEST}
