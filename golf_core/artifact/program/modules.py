"""A package's modules as the generator sees them: what every top-level name stands for, and where its text lies."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from golf_core.errors import GolfError


class ProgramError(GolfError):
    """The sources hold something that the generator does not understand: better no program than a wrong one."""


@dataclass(frozen=True)
class Inner:
    """A module of the package, or with `name` something defined in one."""

    module: str
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    """An import from outside the package, as one statement writes it."""

    module: str
    name: str | None
    """None: the module itself."""
    bound: str
    """The name that it has in the importing module."""
    typing_only: bool = False

    @property
    def meaning(self) -> tuple[str, str | None]:
        """What the bound name stands for; `import a.b` binds the module a."""
        renamed = self.name is not None or self.bound != self.module.partition(".")[0]
        return (self.module, self.name) if renamed else (self.bound, None)


@dataclass(frozen=True, eq=False)
class Definition:
    """A statement that gives module-level names their meaning: a function, class, constant, or guarded import."""

    module: str
    names: tuple[str, ...]
    node: ast.stmt
    first: int
    """Line (from 1) where its text begins, with the comments and decorators above it."""
    last: int
    """Line where its text ends, with a docstring below it."""
    after_blank: bool
    """Whether a blank line stands before it."""


@dataclass(frozen=True)
class Defined:
    """A definition, and which of its names is meant."""

    definition: Definition
    name: str


Binding = Definition | Inner | tuple[Outer, ...]
Meaning = Defined | Inner | tuple[Outer, ...]


@dataclass(eq=False)
class Module:
    """One module: its text, and the meaning of its names."""

    name: str
    source: str
    tree: ast.Module
    is_package: bool = False
    bindings: dict[str, Binding] = field(default_factory=dict)
    definitions: list[Definition] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    """Modules of the package imported at the top, in order."""
    unknown: list[ast.stmt] = field(default_factory=list)
    """Statements of no known kind; fatal once anything of the module is needed."""
    main: ast.If | None = None
    """The `if __name__ == "__main__":` statement."""

    @property
    def docstring(self) -> str | None:
        """The module's docstring."""
        return ast.get_docstring(self.tree)

    def fail(self, node: ast.AST, text: str) -> ProgramError:
        """An error that says where in the sources it lies."""
        return ProgramError(f"{self.name}, line {getattr(node, 'lineno', 1)}: {text}")


class Package:
    """Modules of the package called `name`, read when they are asked for.

    `sources` maps module names to (text, whether it is a package's `__init__`).
    """

    def __init__(self, name: str, sources: Mapping[str, tuple[str, bool]]) -> None:
        self.name, self._sources = name, sources
        self._modules: dict[str, Module] = {}

    @classmethod
    def read(cls, name: str, folder: Path, constants: Mapping[str, str] | None = None) -> Package:
        """The package whose sources lie in `folder`; `constants` maps full names to new values' source text."""
        sources: dict[str, tuple[str, bool]] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join((name, *(parts[:-1] if is_package else parts)))
            sources[module] = (path.read_text(encoding="utf-8"), is_package)
        for constant, value in (constants or {}).items():
            module, _, short = constant.rpartition(".")
            if module not in sources:
                raise ProgramError(f"{folder}: holds no source of {module}; install the package with its sources")
            text, is_package = sources[module]
            sources[module] = (_with_constant(text, short, value), is_package)
        return cls(name, sources)

    def __contains__(self, module: str) -> bool:
        return module in self._sources

    @property
    def names(self) -> list[str]:
        """All modules, sorted."""
        return sorted(self._sources)

    def module(self, name: str) -> Module:
        """The module called `name`, with its names' meanings."""
        if name not in self._modules:
            if name not in self._sources:
                raise ProgramError(f"there is no module {name}")
            source, is_package = self._sources[name]
            module = Module(name, source, ast.parse(source, filename=name), is_package)
            _Reader(self, module).read()
            self._modules[name] = module
        return self._modules[name]

    def resolve(self, module: str, name: str) -> Meaning | None:
        """What `name` stands for in `module`: followed through re-exports; None where it is not defined there."""
        seen = set()
        while (module, name) not in seen:
            seen.add((module, name))
            binding = self.module(module).bindings.get(name)
            if binding is None:
                return Inner(f"{module}.{name}") if f"{module}.{name}" in self else None
            if isinstance(binding, Definition):
                return Defined(binding, name)
            if not isinstance(binding, Inner) or binding.name is None:
                return binding
            module, name = binding.module, binding.name
        raise ProgramError(f"{module}.{name}: imported in a circle")

    def imported(self, module: Module, node: ast.Import | ast.ImportFrom) -> dict[str, Inner]:
        """The names that an import statement takes from this package; empty where it takes none."""
        if isinstance(node, ast.Import):
            own = [alias for alias in node.names if self._is_own(alias.name)]
            found = {alias.asname or self.name: Inner(alias.name if alias.asname else self.name) for alias in own}
            missing = [alias.name for alias in own if alias.name not in self]
        else:
            base = self._base(module, node)
            if base is None:
                return {}
            own, missing = node.names, [] if base in self else [base]
            if any(alias.name == "*" for alias in own):
                raise module.fail(node, f"from {base} import *: name what is imported")
            found = {alias.asname or alias.name: Inner(base, alias.name) for alias in own if not missing}
        if missing:
            raise module.fail(node, f"there is no module {missing[0]}")
        if own and len(own) != len(node.names):
            raise module.fail(node, f"one import of {self.name} and of others; make it two statements")
        return found

    def _base(self, module: Module, node: ast.ImportFrom) -> str | None:
        """The package's module that a from-import reads, or None for one from outside."""
        if not node.level:
            return node.module if node.module and self._is_own(node.module) else None
        parts = module.name.split(".")
        parts = parts[: len(parts) - node.level + module.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _is_own(self, module: str) -> bool:
        return module.partition(".")[0] == self.name


class _Reader:
    """Goes over a module's top level once and sorts every statement."""

    def __init__(self, package: Package, module: Module) -> None:
        self._package, self._module = package, module
        self._lines = module.source.split("\n")

    def read(self) -> None:
        body, end = self._module.tree.body, 0
        for index, node in enumerate(body):
            if _is_text(node):  # a docstring: the module's, or one that belongs to the constant above it
                end = node.end_lineno or end
                continue
            if index and node.lineno == end:
                raise self._module.fail(node, "two statements on one line; give each its own")
            first = self._first_line(node, end)
            end = self._last_line(node, body[index + 1] if index + 1 < len(body) else None)
            self._sort(node, first, end)

    def _first_line(self, node: ast.stmt, previous_end: int) -> int:
        """The line after the previous statement, less blank ones: comments above belong to what follows."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        begin = previous_end + 1
        while begin < first and not self._lines[begin - 1].strip():
            begin += 1
        return begin

    def _last_line(self, node: ast.stmt, following: ast.stmt | None) -> int:
        end = node.end_lineno or node.lineno
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and following is not None and _is_text(following):
            end = following.end_lineno or end
        return end

    def _sort(self, node: ast.stmt, first: int, last: int) -> None:
        module = self._module
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node, typing_only=False)
        elif isinstance(node, ast.If) and _is_guard(node, "TYPE_CHECKING"):
            for inner in node.body:
                if not isinstance(inner, (ast.Import, ast.ImportFrom)):
                    raise module.fail(inner, "only imports may stand under TYPE_CHECKING")
                self._import(inner, typing_only=True)
        elif isinstance(node, ast.If) and _is_guard(node, "__main__"):
            module.main = node
        elif names := _assigned(node):
            blank = first > 1 and not self._lines[first - 2].strip()
            self._define(Definition(module.name, names, node, first, last, blank))
        elif not isinstance(node, ast.Pass):
            module.unknown.append(node)

    def _define(self, definition: Definition) -> None:
        for name in definition.names:
            if name in self._module.bindings:
                raise self._module.fail(definition.node, f"{name} is defined twice")
            self._module.bindings[name] = definition
        self._module.definitions.append(definition)

    def _import(self, node: ast.Import | ast.ImportFrom, typing_only: bool) -> None:
        module = self._module
        inner = self._package.imported(module, node)
        if inner:
            module.bindings.update(inner)
            if not typing_only:
                module.needs += self._modules_run(node, inner)
            return
        if isinstance(node, ast.ImportFrom):
            if node.module == "__future__":
                if [alias.name for alias in node.names] != ["annotations"]:
                    raise module.fail(node, "of __future__ only annotations can be kept")
                return
            found = [Outer(str(node.module), a.name, a.asname or a.name, typing_only) for a in node.names]
        else:
            found = [Outer(a.name, None, a.asname or a.name.partition(".")[0], typing_only) for a in node.names]
        for outer in found:
            if outer.bound == "*":
                raise module.fail(node, "import *: name what is imported")
            earlier = module.bindings.get(outer.bound, ())
            if not isinstance(earlier, tuple) or any(other.meaning != outer.meaning for other in earlier):
                raise module.fail(node, f"{outer.bound} is defined twice")
            module.bindings[outer.bound] = (*earlier, outer)

    def _modules_run(self, node: ast.Import | ast.ImportFrom, inner: Mapping[str, Inner]) -> list[str]:
        """The modules whose top level this import runs, packages first."""
        reached = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for target in inner.values():
            reached.append(target.module)
            if target.name and f"{target.module}.{target.name}" in self._package:
                reached.append(f"{target.module}.{target.name}")
        found: list[str] = []
        for name in reached:
            parts = name.split(".")
            found += [".".join(parts[: i + 1]) for i in range(len(parts))]
        # A package that is being imported already is not run again by its own modules.
        own = self._module.name
        return [name for name in dict.fromkeys(found) if not (own == name or own.startswith(f"{name}."))]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_guard(node: ast.If, mark: str) -> bool:
    """`if TYPE_CHECKING:` or `if __name__ == "__main__":`, without an else."""
    test = ast.unparse(node.test)
    if mark == "TYPE_CHECKING":
        return not node.orelse and test in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return not node.orelse and test == "__name__ == '__main__'"


def _assigned(node: ast.stmt) -> tuple[str, ...]:
    """The names that a top-level statement defines; empty for a statement of another kind."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, ast.Assign):
        names = [_target_names(target) for target in node.targets]
        return tuple(n for group in names if group for n in group) if all(names) else ()
    if isinstance(node, ast.AnnAssign):
        return (_target_names(node.target) or ()) if node.value is not None else ()
    if isinstance(node, (ast.Try, ast.If)):
        return _guarded(node)
    return ()


def _target_names(target: ast.expr) -> tuple[str, ...] | None:
    if isinstance(target, ast.Name):
        return (target.id,)
    if isinstance(target, ast.Tuple) and all(isinstance(element, ast.Name) for element in target.elts):
        return tuple(element.id for element in target.elts if isinstance(element, ast.Name))
    return None


def _guarded(node: ast.Try | ast.If) -> tuple[str, ...]:
    """The names of a `try` or `if` that holds nothing but imports and definitions."""
    bodies = [node.body, node.orelse]
    if isinstance(node, ast.Try):
        bodies += [node.finalbody, *(handler.body for handler in node.handlers)]
    names: list[str] = []
    for inner in (inner for body in bodies for inner in body):
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            names += [alias.asname or alias.name.partition(".")[0] for alias in inner.names]
        elif found := _assigned(inner):
            names += found
        elif not isinstance(inner, ast.Pass):
            return ()
    return tuple(dict.fromkeys(names))


def _with_constant(source: str, name: str, value: str) -> str:
    """`source` with the value of the module-level constant `name` replaced by the expression `value`."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and _assigned(node) == (name,):
            assert node.value is not None
            lines = source.split("\n")
            first, last = node.value.lineno, node.value.end_lineno or node.value.lineno
            before = lines[first - 1].encode()[: node.value.col_offset].decode()
            after = lines[last - 1].encode()[node.value.end_col_offset :].decode()
            return "\n".join([*lines[: first - 1], before + value + after, *lines[last:]])
    raise ProgramError(f"there is no constant {name} to set")
