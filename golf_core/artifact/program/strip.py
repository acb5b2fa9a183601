"""One module's source without what only its readers need: docstrings, comments, and annotations nobody reads."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from golf_core.artifact.program.modules import Outer, Package
from golf_core.artifact.program.reach import Reach
from golf_core.artifact.program.shorten import shorten_locals

PROGRAM = "<program>"
# Decorators that are known not to look at annotations; any other (triton.jit does) finds them where they were.
BLIND_DECORATORS = frozenset(
    {"property", "setter", "staticmethod", "classmethod", "abstractmethod", "override", "contextmanager"}
    | {"cached_property", "cache", "lru_cache", "wraps", "no_grad", "inference_mode"}
)
# With one of these in the program, functions keep their annotations.
ANNOTATION_READERS = frozenset({"__annotations__", "get_annotations", "signature", "getfullargspec"})


def strip(source: str) -> str:
    """The source of a module that runs as `source` does, and defines nothing that it would not use.

    Annotations of classes stay: dataclasses and `records.from_dict` read them at run time. Comments, docstrings,
    other annotations go, then the definitions and imports that nothing speaks of any more. What is reached is told
    from the module's `if __name__ == "__main__":` statement.
    """
    tree = _Stripper(_reads_annotations(source)).visit(ast.parse(source))
    package = Package(PROGRAM, {PROGRAM: (ast.unparse(ast.fix_missing_locations(tree)), False)})
    module = package.module(PROGRAM)
    reach = Reach(package)
    reach.follow_main(module)
    assert module.main is not None
    taken = set(module.bindings)
    kept = [definition.node for definition in module.definitions if definition in reach.parts]
    for node in kept:
        shorten_locals(node, taken)
    body = [
        "from __future__ import annotations",
        *_imports(sorted(reach.outers, key=repr)),
        *map(ast.unparse, [*kept, module.main]),
    ]
    return _narrow("\n".join(body) + "\n")


def _reads_annotations(source: str) -> bool:
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(names & ANNOTATION_READERS)


class _Stripper(ast.NodeTransformer):
    """Removes docstrings, and annotations but those of classes."""

    def __init__(self, keep_signatures: bool) -> None:
        self._keep_signatures = keep_signatures
        self._in_class = False

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A statement that is only a value, such as a docstring, does nothing."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outside, self._in_class = self._in_class, True
        result = self._filled(node)
        self._in_class = outside
        return result

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        blind = all(_last_name(decorator) in BLIND_DECORATORS for decorator in node.decorator_list)
        if blind and not self._keep_signatures:
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
        outside, self._in_class = self._in_class, False
        result = self._filled(node)
        self._in_class = outside
        return result

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if self._in_class or "constexpr" in ast.unparse(node.annotation):  # Triton reads those of a module
            return node
        if node.value is None:
            return None
        return ast.Assign([node.target], node.value)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return None
        return self._filled(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return self._filled(node)

    def _filled(self, node: ast.AST) -> ast.AST:
        """`node` with its parts visited; a block that has lost every statement does nothing."""
        result = super().generic_visit(node)
        if getattr(result, "body", None) == [] and not isinstance(result, ast.Module):
            result.body = [ast.Pass()]  # type: ignore[attr-defined]
        return result


def _last_name(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(node).rpartition(".")[2]


def _imports(outers: Sequence[Outer]) -> list[str]:
    lines: list[str] = []
    members: dict[str, list[str]] = {}
    for outer in outers:
        if outer.name is None:
            plain = outer.bound == outer.module.partition(".")[0]
            lines.append(f"import {outer.module}" + ("" if plain else f" as {outer.bound}"))
        else:
            shown = outer.name if outer.name == outer.bound else f"{outer.name} as {outer.bound}"
            members.setdefault(outer.module, []).append(shown)
    return [*lines, *(f"from {module} import {', '.join(names)}" for module, names in members.items())]


def _narrow(source: str) -> str:
    """Blocks indented by one space instead of four, and no empty lines."""
    lines = []
    for line in source.split("\n"):
        bare = line.lstrip(" ")
        lines.append(" " * ((len(line) - len(bare)) // 4) + bare)
    result = "\n".join(line for line in lines if line) + "\n"
    # A text that spans lines would have changed too.
    return result if ast.dump(ast.parse(result)) == ast.dump(ast.parse(source)) else source
