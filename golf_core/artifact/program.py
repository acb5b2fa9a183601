"""The program that ships: one self-contained `train_gpt.py`, made from this package's own modules.

It has two forms. The readable one holds the modules as they are, in one table, with an importer that finds them there.
The packed one is the same with every module minified, compressed in a script that unpacks and runs itself.

Making it needs python-minifier, which nothing else here does: a machine without it trains and evaluates, and an export
there ends with a sentence, since a longer program would leave the weights fewer bytes. A packed program needs it
neither: it makes none, it is its own file.
"""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import importlib.util
import lzma
import pprint
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import golf_core
from golf_core.config import GolfConfig
from golf_core.errors import ConfigError, GolfError
from golf_core.strict_json import to_dict

READABLE_NAME = "train_gpt_readable.py"
ENTRY = "golf_core.train_gpt"
NOT_FOLLOWED = ("golf_core.artifact.program",)
"""Modules that the program imports in nothing that it does: it does not make itself."""

# torch.compile, Triton, `inspect` and tracebacks ask `linecache` for the source of a function's file; an entry there
# without a modification time is never compared with the disk. So nothing is written, and any number of ranks can
# start at once from a folder that they may not write to.
MAIN = '''\
"""The program of one run in plain text: the modules of its package, and an importer that finds them in this file."""

import importlib.abc
import importlib.machinery
import linecache
import sys

CONFIG = {config}

FILES = {{}}


class Importer(importlib.abc.Loader):
    """Finds and runs the modules whose texts are in FILES."""

    def find_spec(self, name, path=None, target=None):
        for end in (".py", "/__init__.py"):
            file = name.replace(".", "/") + end
            if file in FILES:
                place = f"{{__file__}}/{{file}}"
                spec = importlib.machinery.ModuleSpec(name, self, origin=place, is_package=end != ".py")
                spec.has_location, spec.loader_state = True, file
                return spec
        return None

    def exec_module(self, module):
        text, place = FILES[module.__spec__.loader_state], module.__file__
        linecache.cache[place] = len(text), None, text.splitlines(True), place
        exec(compile(text, place, "exec"), module.__dict__)


sys.meta_path.insert(0, Importer())
if __name__ == "__main__":
    from {entry} import entry

    entry(CONFIG)
'''
EMPTY_TABLE = re.compile(r"^FILES ?= ?\{\}$", re.MULTILINE)
STUB = """\
# {minifier}, LZMA, base85. The same program in plain text: {readable}
import base64,lzma
s=lzma.decompress(base64.b85decode({payload!r}))
exec(s)
"""
# The oldest container has the smallest header; these settings suit text (no alignment, longer literal context).
FORMAT = lzma.FORMAT_ALONE
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]
# Decorators that are known not to look at annotations; any other (triton.jit does) finds them where they were.
BLIND_DECORATORS = frozenset(
    {"property", "setter", "staticmethod", "classmethod", "abstractmethod", "override", "contextmanager"}
    | {"cached_property", "cache", "lru_cache", "wraps", "no_grad", "inference_mode"}
)


class ProgramError(GolfError):
    """Sources or a program that cannot be worked with: better no program than a wrong one."""


# --- the readable form ------------------------------------------------------------------------------


def readable_program(config: GolfConfig) -> str:
    """The program as one file with all docstrings and comments; `config` is its only configuration."""
    modules = needed_modules(Path(golf_core.__file__).parent, ENTRY, NOT_FOLLOWED)
    return bundle(modules, ENTRY, pprint.pformat(to_dict(config), indent=1, width=120, sort_dicts=False))


def bundle(modules: Mapping[str, str], entry: str, config: str) -> str:
    """The text of a program that calls `entry` of the module `entry` with `config`, the text of an expression."""
    return _filled(MAIN.format(config=config, entry=entry), modules)


def needed_modules(folder: Path, entry: str, not_followed: Iterable[str] = ()) -> dict[str, str]:
    """The texts of the module `entry` and of all that it imports from the package in `folder`, in functions too.

    By path, in the order in which Python finishes importing them. Imports for type checkers alone are not followed.
    """
    found: dict[str, str] = {}
    begun = set(not_followed)

    def visit(module: str) -> None:
        if module in begun:
            return
        begun.add(module)
        path = _path(folder, module)
        if path is None:
            raise ProgramError(f"{folder}: holds no source of {module}; install the package with its sources")
        text = path.read_text(encoding="utf-8")
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name in _imported(ast.parse(text, str(path)), package):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                needed = ".".join(parts[:end])
                # The c of `from a.b import c` is a module, or something in one.
                if parts[0] == folder.name and (end < len(parts) or _path(folder, needed)):
                    visit(needed)
        found[path.relative_to(folder.parent).as_posix()] = text

    visit(folder.name)
    visit(entry)
    return found


def _path(folder: Path, module: str) -> Path | None:
    """The file of a module of the package in `folder`; None where there is none."""
    place = folder.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Full names of what a module of `package` imports: of modules, and of what it takes from them."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif not (isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")):
        for child in ast.iter_child_nodes(node):
            yield from _imported(child, package)


def _filled(main: str, modules: Mapping[str, str]) -> str:
    """A program's text with its modules in its empty table."""
    for path, text in modules.items():
        if "'''" in text:
            raise ProgramError(f"{path}: holds ''', which would end its text in the program; write it another way")
    table = "".join(f"\"{path}\": r'''{text.rstrip()}\n''',\n" for path, text in modules.items())
    return EMPTY_TABLE.sub(lambda _: f"FILES = {{\n{table}}}", main, count=1)


def _emptied(text: str) -> tuple[str, dict[str, str]]:
    """The opposite of `_filled`. No modules for a text without a table."""
    for node in ast.parse(text).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Dict)
            and ast.unparse(node.targets[0]) == "FILES"
        ):
            try:
                modules = ast.literal_eval(node.value)
            except ValueError:
                raise ProgramError("its table holds more than texts") from None
            lines = text.split("\n")
            return "\n".join([*lines[: node.lineno - 1], "FILES = {}", *lines[node.end_lineno :]]), modules
    return text, {}


# --- the packed form --------------------------------------------------------------------------------


def packed_program(config: GolfConfig) -> bytes:
    """The program as it ships and counts.

    Deterministic for the same sources, configuration and versions of Python, python-minifier and liblzma. Made under
    Python 3.12 or later it does not run under 3.11, whose f-strings know fewer quotes. Raises `ConfigError` where
    python-minifier is missing.
    """
    return pack(minified(readable_program(config)))


def require_minifier() -> None:
    """Raise `ConfigError` where no program can be made: for those who would hear of it only after a training."""
    try:
        import python_minifier  # noqa: F401
    except ImportError:
        raise ConfigError(
            "python-minifier is missing, which the program of a run is made with; pip install python-minifier"
        ) from None


def minified(text: str) -> str:
    """A readable program without what only its readers need; globals and parameters keep their names.

    Raises `ConfigError` where python-minifier is missing.
    """
    require_minifier()
    main, modules = _emptied(text)
    return _filled(_minified(main), {path: _minified(module) for path, module in modules.items()})


def _minified(source: str) -> str:
    import python_minifier

    nodes = list(ast.walk(ast.parse(source)))
    decorators = [
        ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).rpartition(".")[2]
        for node in nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for decorator in node.decorator_list
    ]
    # Annotations of classes stay in any case: dataclasses and `records.from_dict` read them at run time.
    keep_annotations = not BLIND_DECORATORS.issuperset(decorators)
    return python_minifier.minify(
        source,
        remove_annotations=False if keep_annotations else python_minifier.RemoveAnnotationsOptions(),
        remove_literal_statements=True,
        # It renames a parameter by a second variable, which would keep a large tensor alive after the first lets go.
        preserve_locals=sorted({node.arg for node in nodes if isinstance(node, ast.arg)}),
        hoist_literals=False,  # compresses worse
        constant_folding=False,
    )


def pack(source: str) -> bytes:
    """The script that runs `source`."""
    packed = lzma.compress(source.encode("utf-8"), format=FORMAT, filters=FILTERS)
    payload = base64.b85encode(packed).decode("ascii")
    return STUB.format(minifier=_minifier(), readable=READABLE_NAME, payload=payload).encode("ascii")


def unpack(program: bytes) -> str:
    """The source inside a script that `pack` made; nothing of it is run. Raises `ProgramError` for other files."""
    try:
        calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
        payload = next(node.args[0] for node in calls if ast.unparse(node.func) == "base64.b85decode")
        return lzma.decompress(base64.b85decode(ast.literal_eval(payload))).decode("utf-8")
    except (SyntaxError, ValueError, StopIteration, TypeError, lzma.LZMAError):
        raise ProgramError("not a program that this software packed") from None


def _minifier() -> str:
    return f"python-minifier {importlib.metadata.version('python-minifier')}"


# --- one form and the other -------------------------------------------------------------------------


def is_made_from(program: bytes, readable: str) -> bool:
    """Whether a packed program was made from a readable one; nothing of either is run.

    Raises `ProgramError` where that cannot be told, and `SyntaxError` where one of them is no Python.
    """
    packed = unpack(program)
    if not _emptied(readable)[1]:
        # Programs of earlier versions were one flat module. Packed, it had other names for variables and lacked what
        # only annotations spoke of; all that it says otherwise must stand in the readable form.
        return _said(packed) <= _said(readable)
    if _syntax(packed) == _syntax(minified(readable)):
        return True
    if _minifier() not in (made_by := program[:100].decode("ascii", "replace").partition(",")[0]):
        raise ProgramError(f"{made_by.strip('# ')} made it, and {_minifier()} is installed; install the former")
    return False


def _syntax(text: str) -> list[tuple[str, str]]:
    """The syntax of a program and of its modules."""
    main, modules = _emptied(text)
    return [(path, ast.dump(ast.parse(source))) for path, source in [("", main), *modules.items()]]


def _said(text: str) -> Counter[str]:
    """How often each constant, attribute, keyword argument and kind of operation stands in a program."""
    said: Counter[str] = Counter()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant):
            said[repr(node.value)] += 1
        elif isinstance(node, (ast.Attribute, ast.keyword)):
            said[f".{node.attr}" if isinstance(node, ast.Attribute) else f"{node.arg}="] += 1
        elif isinstance(node, (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Call, ast.Return)):
            said[type(node).__name__] += 1
    return said
