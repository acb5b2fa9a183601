"""Which names in a definition mean the module's, and which are its own: Python's rules of scope on the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from golf_core.artifact.program.modules import Inner, Module

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
InnerImports = Callable[[ast.Import | ast.ImportFrom], Mapping[str, Inner]]


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a definition speaks of a name of its module."""

    name: str
    node: ast.Name | ast.Global
    chain: tuple[ast.Attribute, ...]
    """Attributes taken of the name, from the inside out: for `a.b.c` the nodes of `a.b` and `a.b.c`."""
    hidden: frozenset[str]
    """Names that would not mean the module's here, because an enclosing function or class has its own."""
    role: Literal["value", "field", "signature"]
    """A field's annotation may be read at run time; one of a function or variable is for readers and checkers."""
    inner: Inner | None = None
    """What the name stands for, where a local import bound it."""
    text: ast.Constant | None = None
    """The string that holds it, for an annotation written as text; positions count from the string's begin."""


@dataclass(eq=False)
class Scope:
    """A function, class, lambda or comprehension and the names that it binds."""

    node: ast.AST
    bound: set[str]
    elsewhere: set[str] = field(default_factory=set)
    """Declared `global`."""
    inner: dict[str, Inner] = field(default_factory=dict)
    """Bound by imports from the package, which the program will not have."""

    @property
    def is_class(self) -> bool:
        """Whether functions inside do not see its names."""
        return isinstance(self.node, ast.ClassDef)


class UseFinder(ast.NodeVisitor):
    """Collects the uses of module names in one definition, and the local imports of the package's own modules."""

    def __init__(self, module: Module, inner_imports: InnerImports) -> None:
        self._module, self._inner_imports = module, inner_imports
        self._scopes: list[Scope] = []
        self._role: Literal["value", "field", "signature"] = "value"
        self._text: ast.Constant | None = None
        self.uses: list[Use] = []
        self.local_imports: list[ast.Import | ast.ImportFrom] = []

    # --- names --------------------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        self._name(node, ())

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = [node]
        while isinstance(chain[-1].value, ast.Attribute):
            chain.append(chain[-1].value)
        root = chain[-1].value
        if isinstance(root, ast.Name):
            self._name(root, tuple(reversed(chain)))
        else:
            self.visit(root)

    def visit_Global(self, node: ast.Global) -> None:
        for name in node.names:
            self._add(name, node, ())

    def _name(self, node: ast.Name, chain: tuple[ast.Attribute, ...]) -> None:
        # Annotations are looked up where the module's names come first, whatever a class body binds.
        skip_class = self._role != "value" and node.id in self._module.bindings
        for scope in reversed(self._scopes):
            if scope.is_class and (skip_class or scope is not self._scopes[-1]):
                continue
            if node.id in scope.elsewhere:
                break
            if node.id in scope.inner:
                self._add(node.id, node, chain, scope.inner[node.id])
                return
            if node.id in scope.bound or (scope.is_class and not isinstance(node.ctx, ast.Load)):
                return
        self._add(node.id, node, chain)

    def _add(
        self, name: str, node: ast.Name | ast.Global, chain: tuple[ast.Attribute, ...], inner: Inner | None = None
    ) -> None:
        hidden: set[str] = set()
        for scope in self._scopes:
            if not scope.is_class or scope is self._scopes[-1]:
                hidden = (hidden | scope.bound) - scope.elsewhere
        self.uses.append(Use(name, node, chain, frozenset(hidden), self._role, inner, self._text))

    # --- scopes -------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def _function(self, node: FunctionNode) -> None:
        self._refuse_type_parameters(node)
        for decorator in getattr(node, "decorator_list", ()):
            self.visit(decorator)
        arguments = node.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)
        parameters = all_arguments(arguments)
        if not isinstance(node, ast.Lambda):
            self._annotations("signature", [*(a.annotation for a in parameters), node.returns])
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        scope = Scope(node, {a.arg for a in parameters} | {"__class__"})
        self._bind(scope, body)
        self._scopes.append(scope)
        for statement in body:
            self.visit(statement)
        self._scopes.pop()

    def _bind(self, scope: Scope, body: Iterable[ast.AST]) -> None:
        """Enter the names that a function's body binds, and what its imports of the package's modules stand for."""
        for statement in walk_scope(body):
            if isinstance(statement, ast.Global):
                scope.elsewhere |= set(statement.names)
            elif isinstance(statement, (ast.Import, ast.ImportFrom)) and (inner := self._inner_imports(statement)):
                for name, target in inner.items():
                    if scope.inner.get(name, target) != target:
                        raise self._module.fail(statement, f"{name} is imported twice, with two meanings")
                    scope.inner[name] = target
                self.local_imports.append(statement)
            else:
                scope.bound |= set(bound_by(statement))
        for statement in walk_scope(body):
            if isinstance(statement, ast.Nonlocal):
                scope.bound -= set(statement.names)
        scope.bound -= scope.elsewhere
        if clash := scope.bound & scope.inner.keys():
            raise self._module.fail(scope.node, f"{min(clash)} is both imported and assigned in one function")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._refuse_type_parameters(node)
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        # A class body runs from top to bottom: a name means the module's until the body binds it.
        scope = Scope(node, set())
        self._scopes.append(scope)
        for statement in node.body:
            simple = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign))
            names = {name for part in walk_scope([statement]) for name in bound_by(part)}
            if not simple and not isinstance(statement, ast.AnnAssign):
                scope.bound |= names
            self.visit(statement)
            scope.bound |= names
        self._scopes.pop()

    def visit_Import(self, node: ast.Import) -> None:
        self._refuse_in_class(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._refuse_in_class(node)

    def _refuse_in_class(self, node: ast.Import | ast.ImportFrom) -> None:
        """Imports in functions are entered by `_bind`; one of the package's own modules fits nowhere else."""
        in_function = self._scopes and not self._scopes[-1].is_class
        if not in_function and self._inner_imports(node):
            raise self._module.fail(node, "an import of the package's own modules inside a class, try or if")

    def _comprehension(self, node: Comprehension) -> None:
        first, *rest = node.generators
        self.visit(first.iter)  # evaluated outside
        bound = {name for generator in node.generators for name in _stored(generator.target)}
        self._scopes.append(Scope(node, bound))
        for part in (first.target, *first.ifs, *rest):
            self.visit(part)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension  # noqa: N815

    # --- annotations --------------------------------------------------------------------------------

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        in_class = bool(self._scopes) and self._scopes[-1].is_class
        self._annotations("field" if in_class else "signature", [node.annotation])
        if node.value is not None:
            self.visit(node.value)
        self.visit(node.target)

    def _annotations(self, role: Literal["field", "signature"], annotations: Iterable[ast.expr | None]) -> None:
        outside, self._role = self._role, role
        for annotation in annotations:
            if annotation is not None:
                self._annotation(annotation)
        self._role = outside

    def _annotation(self, node: ast.expr) -> None:
        """An annotation, in which text stands for an expression (but for that in Literal and Annotated)."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            outside, self._text = self._text, node
            self._annotation(parse_annotation(self._module, node))
            self._text = outside
        elif isinstance(node, ast.Subscript):
            self._annotation(node.value)
            last = ast.unparse(node.value).rpartition(".")[2]
            elements = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if last == "Annotated":
                self._annotation(elements[0])
                for element in elements[1:]:
                    self.visit(element)
            elif last != "Literal":
                for element in elements:
                    self._annotation(element)
        elif isinstance(node, (ast.BinOp, ast.List, ast.Tuple)):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    self._annotation(part)
        else:
            self.visit(node)

    def _refuse_type_parameters(self, node: ast.AST) -> None:
        if getattr(node, "type_params", None):
            raise self._module.fail(node, "type parameters in brackets; use TypeVar")


def parse_annotation(module: Module, node: ast.Constant) -> ast.expr:
    """The expression that a string annotation holds."""
    try:
        return ast.parse(str(node.value), mode="eval").body
    except SyntaxError:
        raise module.fail(node, f"the annotation {node.value!r} is not an expression") from None


def all_arguments(arguments: ast.arguments) -> list[ast.arg]:
    """All parameters of a function."""
    starred = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


def walk_scope(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of statements that belong to their own scope: not what lies in functions, classes, comprehensions.

    Of a comprehension's parts only assignment expressions (:=) are given, which bind names outside of it.
    """
    waiting = list(body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, Comprehension):
            waiting += [part for part in ast.walk(node) if isinstance(part, ast.NamedExpr)]
            continue
        waiting += ast.iter_child_nodes(node)


def bound_by(node: ast.AST) -> list[str]:
    """Names that this very node binds in its scope."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


def _stored(target: ast.expr) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
