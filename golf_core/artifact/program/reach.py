"""What of a package a program needs: definitions and outside imports, followed from its entry point."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field

from golf_core.artifact.program.modules import (
    Defined,
    Definition,
    Inner,
    Meaning,
    Module,
    Outer,
    Package,
    ProgramError,
)
from golf_core.artifact.program.scopes import Use, UseFinder

# Of the names with underscores a module has its own; those of one module are not those of another.
BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("__")) | {"__file__", "__name__"}
# What finds names by their text escapes the analysis.
REFUSED = frozenset({"globals", "eval", "exec", "__import__"})


@dataclass(frozen=True, eq=False)
class Link:
    """A use and what it means: a name of a definition, or an outside import."""

    use: Use
    node: ast.Name | ast.Attribute | ast.Global
    """What stands for the meaning in the text: the name, or as much of `a.b.c` as leads to a definition."""
    target: Defined | tuple[Outer, ...]


@dataclass(eq=False)
class Part:
    """A definition that the program needs, with all that it needs in turn."""

    definition: Definition
    links: list[Link] = field(default_factory=list)
    builtins: set[str] = field(default_factory=set)
    dropped: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    """Its local imports of the package's own modules."""


class Reach:
    """All parts that are reached from one definition.

    With `signatures`, also what only the annotations of functions and variables speak of. `replaced` maps full
    names of definitions to those that take their place.
    """

    def __init__(self, package: Package, replaced: Mapping[str, str] | None = None, signatures: bool = True) -> None:
        self._package, self._replaced, self._signatures = package, replaced or {}, signatures
        self.parts: dict[Definition, Part] = {}
        self.modules: list[str] = []
        """In the order in which they were first needed."""

    @property
    def outers(self) -> set[Outer]:
        """The outside imports that the parts need."""
        targets = [link.target for part in self.parts.values() for link in part.links]
        return {outer for target in targets if isinstance(target, tuple) for outer in target}

    def follow(self, module: str, name: str) -> Defined:
        """Add the definition called `name` in `module` and all that it needs."""
        target = self._found(module, name)
        if not isinstance(target, Defined):
            raise ProgramError(f"{module}.{name} is not defined in the package")
        self._follow(target.definition)
        return target

    def follow_main(self, module: Module) -> None:
        """Add all that the `if __name__ == "__main__":` statement of `module` needs."""
        if module.main is None:
            raise ProgramError(f"{module.name} has no `if __name__ == '__main__':` statement")
        self._follow(Definition(module.name, (), module.main, 0, 0, False))

    def _follow(self, definition: Definition) -> None:
        waiting = [definition]
        while waiting:
            definition = waiting.pop(0)
            if definition not in self.parts:
                part = self.parts[definition] = self._part(definition)
                waiting += [link.target.definition for link in part.links if isinstance(link.target, Defined)]

    def _part(self, definition: Definition) -> Part:
        module = self._package.module(definition.module)
        if module.unknown:
            raise module.fail(module.unknown[0], "a statement that defines nothing; move it into a function")
        if module.name not in self.modules:
            self.modules.append(module.name)
        part = Part(definition)
        finder = find_uses(self._package, module, definition)
        part.dropped = finder.local_imports
        for use in finder.uses:
            if use.role == "signature" and not self._signatures:
                continue
            link = self._link(module, use)
            if link is None:
                part.builtins.add(use.name)
            else:
                part.links.append(link)
        return part

    def _link(self, module: Module, use: Use) -> Link | None:
        """The meaning of a use; None for a builtin."""
        if use.inner is None:
            target = self._found(module.name, use.name)
        elif use.inner.name is None:
            target = use.inner
        else:
            target = self._found(use.inner.module, use.inner.name)
        if target is None:
            if use.name in BUILTINS and use.name not in REFUSED and use.inner is None:
                return None
            why = "finds names by their text" if use.name in REFUSED else "is not defined"
            raise module.fail(use.node, f"{use.name} {why}")
        node: ast.Name | ast.Attribute | ast.Global = use.node
        for attribute in use.chain:
            if not isinstance(target, Inner):
                break
            if not isinstance(attribute.ctx, ast.Load):
                raise module.fail(attribute, f"{ast.unparse(attribute)} is assigned: modules cannot be changed")
            target, node = self._found(target.module, attribute.attr), attribute
            if target is None:
                raise module.fail(attribute, f"{ast.unparse(attribute)} is not defined")
        if isinstance(target, Inner):
            raise module.fail(use.node, f"{ast.unparse(node)} is a module used as a value; take what is needed of it")
        return Link(use, node, target)

    def _found(self, module: str, name: str) -> Meaning | None:
        """What `name` stands for in `module`, or what replaces that; None where it is not defined there."""
        target = self._package.resolve(module, name)
        if isinstance(target, Defined):
            new = self._replaced.get(f"{target.definition.module}.{target.name}")
            if new is not None:
                home, _, name = new.rpartition(".")
                return self._package.resolve(home, name)
        return target


def find_uses(package: Package, module: Module, definition: Definition) -> UseFinder:
    """The uses of module names in a definition."""
    finder = UseFinder(module, lambda node: package.imported(module, node))
    finder.visit(definition.node)
    return finder
