"""The text of one definition under its new names, with everything else as its author wrote it."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from golf_core.artifact.program.modules import Definition, Module
from golf_core.artifact.program.scopes import Use, parse_annotation


@dataclass(frozen=True, eq=False)
class Renaming:
    """One use of a module name: `node` (a Name, or an Attribute of a module) becomes the plain name `new`."""

    use: Use
    node: ast.Name | ast.Attribute | ast.Global
    new: str


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    text: str


def rewritten(
    module: Module,
    definition: Definition,
    own_names: Mapping[str, str],
    renamings: Sequence[Renaming],
    dropped: Sequence[ast.stmt],
) -> str:
    """The definition's lines, with the names that it defines (`own_names`) and uses (`renamings`) replaced.

    `dropped` are its local imports of the package's own modules. The result is parsed and compared with the
    syntax tree on which the same was done: what is returned says what was meant, or `ProgramError` is raised.
    """
    lines = module.source.split("\n")[definition.first - 1 : definition.last]
    text = _Text(lines, definition.first)
    changed = [r for r in renamings if _old_text(r) != r.new]
    fixed = [*_defined_names(text, definition.node, own_names), *_removals(text, module, definition.node, dropped)]
    meant = ast.dump(_transformed(module, definition.node, own_names, changed, dropped))
    # Python 3.11 is not always right about where in an f-string a name stands: then the f-string is written anew.
    for whole_fstrings in (False, True):
        result = text.edited([*fixed, *_uses(text, module, definition.node, changed, whole_fstrings)])
        if _parsed(result) == [meant]:
            return result
    raise module.fail(definition.node, f"the names in {definition.names[0]} cannot be replaced in its text")


class _Text:
    """Lines of a module from line `first` on, addressed as the syntax tree does: by line and UTF-8 column."""

    def __init__(self, lines: Sequence[str], first: int) -> None:
        self.text = "\n".join(lines)
        self._lines, self._first = lines, first
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def offset(self, line: int, column: int) -> int:
        row = line - self._first
        return self._starts[row] + len(self._lines[row].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        place = [getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")]
        return self.offset(place[0], place[1]), self.offset(place[2], place[3])

    def whole_lines(self, node: ast.stmt) -> tuple[int, int]:
        """The lines of a statement, and a blank one after it."""
        last = (node.end_lineno or node.lineno) - self._first + 1
        if last < len(self._lines) and not self._lines[last].strip():
            last += 1
        return self._starts[node.lineno - self._first], min(self._starts[last], len(self.text))

    def edited(self, edits: Iterable[_Edit]) -> str:
        result = self.text
        for edit in sorted(edits, key=lambda e: e.start, reverse=True):
            result = result[: edit.start] + edit.text + result[edit.end :]
        return result


def _old_text(renaming: Renaming) -> str:
    return renaming.use.name if isinstance(renaming.node, ast.Global) else ast.unparse(renaming.node)


def _defined_names(text: _Text, node: ast.stmt, own_names: Mapping[str, str]) -> Iterator[_Edit]:
    """Edits of a function's or class's own name; those of constants are among the uses."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        found = re.compile(r"(?:async\s+def|def|class)\s+(\w+)").match(text.text, text.span(node)[0])
        assert found is not None
        yield _Edit(*found.span(1), own_names[node.name])


def _removals(text: _Text, module: Module, node: ast.AST, dropped: Sequence[ast.stmt]) -> Iterator[_Edit]:
    for body in _bodies(node):
        going = [statement for statement in body if statement in dropped]
        for statement in going:
            start, end = text.whole_lines(statement)
            before, after = text.text[start : text.span(statement)[0]], text.text[text.span(statement)[1] : end]
            if before.strip() or after.partition("#")[0].strip():
                raise module.fail(statement, "an import that shares its line with another statement")
            if len(going) == len(body) and statement is going[0]:
                yield _Edit(*text.span(statement), "pass")
            else:
                yield _Edit(start, end, "")


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for part in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(part, name, None)
            if isinstance(body, list) and body:
                yield body


def _parsed(text: str) -> list[str]:
    try:
        nodes = ast.parse(text).body
    except SyntaxError:
        return []
    return [ast.dump(node) for node in nodes if not _is_docstring(node)]


def _uses(
    text: _Text, module: Module, node: ast.stmt, changed: Sequence[Renaming], whole_fstrings: bool
) -> Iterator[_Edit]:
    held: dict[ast.Constant, list[Renaming]] = {}
    fstrings = {id(part): whole for whole in _fstrings(node) for part in ast.walk(whole)} if whole_fstrings else {}
    anew: dict[ast.JoinedStr, list[Renaming]] = {}
    declarations: dict[ast.Global, dict[str, str]] = {}
    for renaming in changed:
        if renaming.use.text is not None:
            held.setdefault(renaming.use.text, []).append(renaming)
        elif isinstance(renaming.node, ast.Global):
            declarations.setdefault(renaming.node, {})[renaming.use.name] = renaming.new
        elif id(renaming.node) in fstrings:
            anew.setdefault(fstrings[id(renaming.node)], []).append(renaming)
        else:
            yield _Edit(*text.span(renaming.node), renaming.new)
    for constant, renamings in held.items():
        yield _Edit(*text.span(constant), repr(_annotation(module, constant, renamings)))
    for declaration, names in declarations.items():
        yield _Edit(*text.span(declaration), "global " + ", ".join(names.get(n, n) for n in declaration.names))
    for whole, renamings in anew.items():
        yield _Edit(*text.span(whole), ast.unparse(_replaced(whole, {id(r.node): r.new for r in renamings})))


def _fstrings(node: ast.AST) -> Iterator[ast.JoinedStr]:
    """The outermost f-strings."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.JoinedStr):
            yield part
        else:
            yield from _fstrings(part)


def _annotation(module: Module, constant: ast.Constant, renamings: Sequence[Renaming]) -> str:
    """The text of a string annotation under the new names."""
    new = {_old_text(r): r.new for r in renamings}
    tree = parse_annotation(module, constant)
    return ast.unparse(_replaced(tree, {id(n): new[t] for n in ast.walk(tree) if (t := ast.unparse(n)) in new}))


def _replaced(node: ast.expr, new: Mapping[int, str]) -> ast.expr:
    """A copy of an expression in which the nodes with these ids are plain names."""
    copied = copy.deepcopy(node)
    pairs = zip(ast.walk(node), ast.walk(copied), strict=True)
    result = _Replacer({id(other): new[id(one)] for one, other in pairs if id(one) in new}).visit(copied)
    assert isinstance(result, ast.expr)
    return result


class _Replacer(ast.NodeTransformer):
    def __init__(self, new: Mapping[int, str]) -> None:
        self._new = new

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._replace(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._replace(node)

    def _replace(self, node: ast.Name | ast.Attribute) -> ast.expr:
        if id(node) in self._new:
            return ast.copy_location(ast.Name(self._new[id(node)], node.ctx), node)
        result = self.generic_visit(node)
        assert isinstance(result, ast.expr)
        return result


def _transformed(
    module: Module,
    node: ast.stmt,
    own_names: Mapping[str, str],
    changed: Sequence[Renaming],
    dropped: Sequence[ast.stmt],
) -> ast.stmt:
    """The same replacements, done on a copy of the syntax tree."""
    copied = copy.deepcopy(node)
    twins = {id(one): other for one, other in zip(ast.walk(node), ast.walk(copied), strict=True)}
    going = {id(twins[id(statement)]) for statement in dropped}
    for body in list(_bodies(copied)):
        kept = [statement for statement in body if id(statement) not in going]
        body[:] = kept or [ast.Pass()]
    for constant in {r.use.text for r in changed if r.use.text is not None}:
        twin = twins[id(constant)]
        assert isinstance(twin, ast.Constant)
        twin.value = _annotation(module, constant, [r for r in changed if r.use.text is constant])
    for renaming in changed:
        if isinstance(renaming.node, ast.Global):
            declaration = twins[id(renaming.node)]
            assert isinstance(declaration, ast.Global)
            declaration.names = [renaming.new if n == renaming.use.name else n for n in declaration.names]
    if isinstance(copied, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        copied.name = own_names[copied.name]
    plain = [r for r in changed if r.use.text is None and not isinstance(r.node, ast.Global)]
    result = _Replacer({id(twins[id(r.node)]): r.new for r in plain}).visit(copied)
    assert isinstance(result, ast.stmt)
    return result


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
