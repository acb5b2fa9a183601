"""Many modules into one: everything that an entry point needs, in the order in which Python would have defined it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from golf_core.artifact.program.modules import Defined, Definition, Module, Outer, Package
from golf_core.artifact.program.naming import Names
from golf_core.artifact.program.reach import Part, Reach
from golf_core.artifact.program.rewrite import Renaming, rewritten

WIDTH = 120
HEADER_WIDTH = 100


@dataclass(frozen=True)
class Recipe:
    """Which program to make of a package."""

    entry: str
    """Full name of the function that the program calls, without arguments."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Full names of definitions that are not to be followed, and of those that take their place."""


def flatten(package: Package, recipe: Recipe) -> str:
    """The source of one module that does what calling the entry point does, comments and docstrings kept.

    Raises `ProgramError` where the sources hold something that cannot be carried over for certain.
    """
    home, _, name = recipe.entry.rpartition(".")
    reach = Reach(package, recipe.replaced)
    entry = reach.follow(home, name)
    names = Names(reach.parts.values())
    pieces = [_docstring(package.module(home)), "from __future__ import annotations\n", _imports(reach, names)]
    for module in _in_order(package, recipe, reach.modules):
        pieces.append(_section(package.module(module), home, reach, names))
    pieces.append(f'\nif __name__ == "__main__":\n    {names.of(entry)}()\n')
    return "\n".join(piece for piece in pieces if piece)


def _docstring(module: Module) -> str:
    text = module.docstring or ""
    return f'"""{text}' + ("\n" if "\n" in text else "") + '"""\n' if text else ""


def _in_order(package: Package, recipe: Recipe, modules: Iterable[str]) -> list[str]:
    """`modules` in the order in which Python finishes importing them, each after those it imports at its top.

    Those that are only imported inside functions come after all that the entry's module imports at its top; one
    that holds a replacement stands where what it replaces would be.
    """
    order: list[str] = []
    begun: set[str] = set()
    stand_ins = {old.rpartition(".")[0]: new.rpartition(".")[0] for old, new in recipe.replaced.items()}

    def visit(name: str) -> None:
        if name in begun:
            return
        begun.add(name)
        for needed in package.module(name).needs:
            visit(needed)
        if name in stand_ins:
            visit(stand_ins[name])
        order.append(name)

    for module in [recipe.entry.rpartition(".")[0], *modules]:
        visit(module)
    wanted = set(modules)
    return [name for name in order if name in wanted]


# --- imports ----------------------------------------------------------------------------------------


def _imports(reach: Reach, names: Names) -> str:
    """All outside imports: the standard library's, then the others', sorted; those for checkers alone last."""
    used = reach.outers
    at_run_time = {outer.meaning for outer in used if not outer.typing_only}
    typing_only = {outer for outer in used if outer.typing_only and outer.meaning not in at_run_time}
    groups = _grouped({outer for outer in used if not outer.typing_only}, names)
    if typing_only:
        lines = [f"    {line}" for group in _grouped(typing_only, names) for line in group]
        groups.append(["from typing import TYPE_CHECKING", "", "if TYPE_CHECKING:", *lines])
    return "\n\n".join("\n".join(group) for group in groups)


def _grouped(outers: Iterable[Outer], names: Names) -> list[list[str]]:
    found: dict[bool, list[Outer]] = {False: [], True: []}
    for outer in outers:
        found[outer.module.partition(".")[0] not in sys.stdlib_module_names].append(outer)
    return [_statements(group, names) for group in found.values() if group]


def _statements(outers: Iterable[Outer], names: Names) -> list[str]:
    whole: set[str] = set()
    members: dict[str, set[tuple[str, str]]] = {}
    for outer in outers:
        final = names.of_outer(outer)
        if outer.name is not None:
            members.setdefault(outer.module, set()).add((outer.name, final))
        elif final == outer.module.partition(".")[0] and outer.bound == final and outer.meaning == (final, None):
            whole.add(f"import {outer.module}")
        else:
            whole.add(f"import {outer.meaning[0]} as {final}")
    lines = sorted(whole, key=lambda line: line.split()[1])
    for module in sorted(members):
        listed = sorted(members[module], key=lambda pair: (_kind(pair[0]), pair[0]))
        shown = [name if name == final else f"{name} as {final}" for name, final in listed]
        line = f"from {module} import {', '.join(shown)}"
        if len(line) > WIDTH:
            line = "\n".join([f"from {module} import (", *(f"    {name}," for name in shown), ")"])
        lines.append(line)
    return lines


def _kind(name: str) -> int:
    """Constants before classes before functions."""
    return 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2


# --- definitions ------------------------------------------------------------------------------------


def _section(module: Module, home: str, reach: Reach, names: Names) -> str:
    """A header that names the module, and those of its definitions that the program needs."""
    path = module.name.replace(".", "/") + ("/__init__" if module.is_package else "") + ".py"
    header = [f"# --- {path} ".ljust(HEADER_WIDTH, "-")]
    if module.docstring and module.name != home:  # the entry's stands at the top of the program
        header += ["#", *(f"# {line}".rstrip() for line in module.docstring.splitlines())]
    text, previous, tight = "\n" + "\n".join(header), None, True
    for definition in module.definitions:
        tight = tight and not definition.after_blank
        if definition in reach.parts:
            text += _gap(previous, definition, tight) + _text(module, reach.parts[definition], names)
            previous, tight = definition, True
    return text + "\n"


def _is_block(definition: Definition) -> bool:
    return hasattr(definition.node, "body")


def _gap(previous: Definition | None, definition: Definition, tight: bool) -> str:
    """What stands between two definitions: constants that stood together stay together."""
    if _is_block(definition) or (previous is not None and _is_block(previous)):
        return "\n\n\n"
    if previous is None:
        return "\n\n"
    return "\n" if tight else "\n\n"


def _text(module: Module, part: Part, names: Names) -> str:
    definition = part.definition
    renamings = []
    for link in part.links:
        new = names.of(link.target) if isinstance(link.target, Defined) else names.of_outer(link.target[0])
        renamings.append(Renaming(link.use, link.node, new))
    own = {name: names.of(Defined(definition, name)) for name in definition.names}
    return rewritten(module, definition, own, renamings, part.dropped)
