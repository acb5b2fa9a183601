"""One name for each definition in the one module that is made of many."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable

from golf_core.artifact.program.modules import Defined, Outer, ProgramError
from golf_core.artifact.program.reach import Part

Meaning = tuple[str, str | None]
MAX_ROUNDS = 20


class Names:
    """Final names of definitions (by module and name) and of outside imports (by meaning and bound name).

    A name stays as it is unless another definition, an import, a builtin in use or a local variable at one of its
    uses has it too. Then all definitions of that name get their module's before it: `rows_load`, `ROWS_LIMIT`,
    `RowsLoader`. The same sources always give the same names.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = list(parts)
        self._levels: Counter[tuple[str, str]] = Counter()
        self._outer_levels: Counter[tuple[Meaning, str]] = Counter()
        self._builtins = {name for part in self._parts for name in part.builtins}
        self._owned = [Defined(part.definition, name) for part in self._parts for name in part.definition.names]
        self._outers = {
            (outer.meaning, outer.bound)
            for part in self._parts
            for link in part.links
            if isinstance(link.target, tuple)
            for outer in link.target
        }
        for _ in range(MAX_ROUNDS):
            if not self._settle():
                return
        raise ProgramError("the definitions' names cannot be told apart; rename one of them")

    def of(self, target: Defined) -> str:
        """The final name of a definition."""
        module = target.definition.module
        return _qualified(module, target.name, self._levels[module, target.name])

    def of_outer(self, outer: Outer) -> str:
        """The final name of an outside import."""
        return self._outer_name(outer.meaning, outer.bound)

    def _outer_name(self, meaning: Meaning, bound: str) -> str:
        level = self._outer_levels[meaning, bound]
        if not level:
            return bound
        whole = "_".join(meaning[0].split(".") + ([meaning[1]] if meaning[1] else []))
        return whole + "_" * (level - 1)

    def _settle(self) -> bool:
        """One round: give longer names to what clashes. Returns whether anything changed."""
        clashes = self._hidden_targets()
        by_name: dict[str, list[Defined]] = {}
        for owned in self._owned:
            by_name.setdefault(self.of(owned), []).append(owned)
        imports: dict[str, list[tuple[Meaning, str]]] = {}
        for meaning, bound in sorted(self._outers, key=repr):
            imports.setdefault(self._outer_name(meaning, bound), []).append((meaning, bound))
        taken = self._builtins | imports.keys()
        for final, owners in by_name.items():
            if len(owners) > 1 or final in taken:
                clashes |= {(owner.definition.module, owner.name) for owner in owners}
        changed_outers = self._hidden_outers()
        for same in imports.values():
            if len({meaning for meaning, _ in same}) > 1:
                # A module keeps its own name before anything that was taken from one.
                plain = [key for key in same if key[0][1] is None and key[0][0] == key[1]]
                changed_outers |= {key for key in same if key not in plain[:1]}
        self._refuse_guarded(clashes)
        for key in clashes:
            self._levels[key] += 1
        for outer in changed_outers:
            self._outer_levels[outer] += 1
        return bool(clashes or changed_outers)

    def _hidden_targets(self) -> set[tuple[str, str]]:
        """Definitions that a local variable would hide at one of their uses."""
        return {
            (link.target.definition.module, link.target.name)
            for part in self._parts
            for link in part.links
            if isinstance(link.target, Defined) and self.of(link.target) in link.use.hidden
        }

    def _hidden_outers(self) -> set[tuple[Meaning, str]]:
        return {
            (outer.meaning, outer.bound)
            for part in self._parts
            for link in part.links
            if isinstance(link.target, tuple)
            for outer in link.target
            if self.of_outer(outer) in link.use.hidden
        }

    def _refuse_guarded(self, clashes: set[tuple[str, str]]) -> None:
        for owned in self._owned:
            module, node = owned.definition.module, owned.definition.node
            if (module, owned.name) in clashes and isinstance(node, (ast.Try, ast.If)):
                raise ProgramError(f"{module}: {owned.name}, defined under try or if, is a name used twice")


def _qualified(module: str, name: str, level: int) -> str:
    """`name` with the last `level` parts of its module's name before it, in the manner of its kind of name."""
    if not level:
        return name
    parts = module.split(".")
    begin = parts[-level:] if level <= len(parts) else [*parts, "x" * (level - len(parts))]
    bare = name.lstrip("_")
    underscores = name[: len(name) - len(bare)]
    if bare.isupper():
        return underscores + "_".join(begin).upper() + "_" + bare
    if bare[:1].isupper():
        return underscores + "".join(word.capitalize() for part in begin for word in part.split("_")) + bare
    return underscores + "_".join(part.strip("_") for part in begin) + "_" + bare
