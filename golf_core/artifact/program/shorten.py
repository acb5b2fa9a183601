"""Short names for local variables."""

from __future__ import annotations

import ast
import builtins
import keyword
import string
from collections import Counter
from collections.abc import Iterator
from itertools import count, product

# What shows a function's variables by name.
REVEALING = frozenset({"locals", "vars", "dir"})


def shorten_locals(definition: ast.stmt, taken: set[str]) -> None:
    """Give the local variables of a top-level definition short names, in place; `taken` are the module's names.

    Only names that are nothing but local variables everywhere in the definition: no parameter (which callers may
    name), no attribute of a class, no function, import or exception, nothing global.
    """
    identifiers = Counter(node.id for node in ast.walk(definition) if isinstance(node, ast.Name))
    if identifiers.keys() & REVEALING:
        return
    stored = set(_stored_in_functions(definition))
    eligible = stored - set(_bound_otherwise(definition)) - taken - set(dir(builtins))
    unavailable = identifiers.keys() | set(_bound_otherwise(definition)) | taken
    fresh = (name for name in _short_names() if name not in unavailable and not keyword.iskeyword(name))
    # The most frequent first; equal ones in the order of the alphabet, so that the result is always the same.
    chosen = sorted(eligible, key=lambda name: (-identifiers[name], name))
    new = dict(zip(chosen, fresh, strict=False))
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and node.id in new and len(new[node.id]) < len(node.id):
            node.id = new[node.id]


def _stored_in_functions(definition: ast.stmt) -> Iterator[str]:
    functions = [n for n in ast.walk(definition) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _bound_otherwise(definition: ast.stmt) -> Iterator[str]:
    """Names that are more than a function's variables."""
    for node in ast.walk(definition):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            yield from node.names
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from _stored_in_class(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


def _stored_in_class(node: ast.ClassDef) -> Iterator[str]:
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(part)


def _short_names() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(string.ascii_letters, repeat=length))
