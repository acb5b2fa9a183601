"""The text of a job file as plain values: YAML, read strictly, with the changes of the command line applied.

Which fields there are and what each takes is for `orchestrator.job.load` to say. A mistake is worded here and
there alike: the source, the field and a sentence.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from golf_core.config import leaves
from golf_core.errors import ConfigError
from golf_core.files import read_bytes
from golf_core.strict_json import printable

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 5_000
"""Keys, values, lists and mappings in a job file; those in use have a hundred."""
MAY_BE_EMPTY = ("overrides", "resources", "budgets", "mlflow")
"""Headings whose lines may all be commented out, which means the defaults."""


class _RefusedError(yaml.MarkedYAMLError):
    """Sound YAML that a job file may not hold."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can stand for gigabytes) and without repeated keys."""

    _values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise _RefusedError(problem="aliases (*name) are not read here; write the value out", problem_mark=mark)
        self._values += 1
        if self._values > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values, so it is no job file; check the path"
            raise _RefusedError(problem=problem, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the field '{key.value}' is given twice; keep one of the two"
                    raise _RefusedError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number, but not in YAML 1.1's bases of 60, in which 12:30 is 750, and of 8, in which 042 is 34."""
        text, problem = str(node.value), ""
        if ":" in text:  # a megabyte of it would take hours
            problem = f"YAML reads {shown(text)} as a number in base 60; put text in quotes"
        elif re.match(r"[-+]?0_*[0-9]", text) and node.tag.endswith(":int"):
            problem = f"YAML reads {shown(text)} as a number in base 8; leave out the zero, or put text in quotes"
        if problem:
            raise _RefusedError(problem=problem, problem_mark=node.start_mark)
        whole = node.tag == "tag:yaml.org,2002:int"
        number: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        return number


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)

# YAML 1.1 takes 1e-3 (no dot) for text; everyone who writes it means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in the file at `path`, of values that a field could take. Raises `ConfigError` if it is none."""
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a job file") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ConfigError(f"{path}: {error.strerror}, so it is no job file; check the path") from None
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a job file") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 text; save the job file as UTF-8") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        found = "nothing" if document is None else shown(document)
        raise ConfigError(f"{path}: holds {found}, not a mapping of fields; begin with lines such as 'name: my-job'")
    mistakes = list(unplain(document))
    if mistakes:
        raise all_of((path, *mistake) for mistake in mistakes)
    return document


def parse_yaml(text: str, where: str) -> Any:
    """The value that `text` writes. Raises `ConfigError`, prefixed with `where` and the line, if it is not sound."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except _RefusedError as error:
        raise ConfigError(f"{_at_line(where, error.problem_mark)}: {printable(error.problem or '')}") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "it cannot be parsed"
        raise ConfigError(
            f"{_at_line(where, error.problem_mark or error.context_mark)}: not YAML ({printable(problem)}); "
            "check the indentation, colons and quotes there"
        ) from None
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"{where}: not YAML ({printable(first_line)}); save it as plain text") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; a job file has three levels at most") from None
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # PyYAML lets Python's own errors through: a 13th month, a number of thousands of digits, an odd tag.
        first_line = printable((str(error).splitlines() or [""])[0][:80])
        raise ConfigError(f"{where}: holds a value that YAML cannot read ({first_line}); put text in quotes") from None


def _at_line(where: str, mark: yaml.Mark | None) -> str:
    return where if mark is None else f"{where}: line {mark.line + 1}"


def unplain(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """What no field can take, whatever it is: dates, bytes, sets, endless numbers, names of no field."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield inside(field, shown(key)), "is not a field's name; names are words, or text in quotes"
            else:
                yield from unplain(item, inside(field, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from unplain(item, f"{field}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield field, f"got {value}; give a finite number"
    elif isinstance(value, int) and value.bit_length() > 63:
        yield field, "got a whole number of more than 63 bits; give a smaller one"
    elif isinstance(value, str) and not _writable(value):
        yield field, f"got {shown(value)}, with a character that no file or address can hold; take it out"
    elif not isinstance(value, (type(None), bool, int, float, str)):
        yield field, f"YAML reads this as a {type(value).__name__}; put text in quotes"


def size_fault(value: Any) -> str | None:
    """Why a plain value has too many others in it, or too deep ones, to be a job; None if it has not."""
    waiting, count = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        count += 1
        if depth > MAX_DEPTH:
            return "nested too deeply for a job"
        if count + len(inner) > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values, so it is no job"
        waiting.extend((each, depth + 1) for each in inner)
    return None


def _writable(text: str) -> bool:
    """Whether it can be a part of a file, a path or an address: no zero, no half of a pair."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


# --- changes to the document ----------------------------------------------------------------------


def apply_changes(document: dict[str, Any], changes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten the overrides and replace fields, in place; the mistakes found on the way."""
    for name in MAY_BE_EMPTY:
        if name in document and document[name] is None:
            del document[name]
    mistakes = []
    overrides = document.get("overrides", {})
    if isinstance(overrides, dict):
        flat: dict[str, Any] = {}
        for field, value in leaves(overrides):
            if field in flat:
                mistakes.append((f"overrides.{field}", "given twice, nested and dotted; keep one of the two"))
            flat[field] = value
        document["overrides"] = flat
    for field, value in changes.items():
        _replace(document, field, value)
    return mistakes


def _replace(document: dict[str, Any], field: str, value: Any) -> None:
    group, _, rest = field.partition(".")
    overrides = document.get("overrides")
    if group == "overrides" and isinstance(overrides, dict):
        if not rest:
            overrides.clear()
        if isinstance(value, dict):
            overrides.update(leaves(value, f"{rest}." if rest else ""))
        elif rest:
            overrides[rest] = value
        else:
            document["overrides"] = value
        return
    node = document
    *parents, last = field.split(".")
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}  # `data.path=...` replaces `data: sample`
        node = node[name]
    node[last] = value


# --- mistakes in words ----------------------------------------------------------------------------


def was_set(field: str, changes: Mapping[str, Any]) -> bool:
    """Whether `field`, what it lies in or what lies in it is among the changes."""
    return any(
        field == name or field.startswith((f"{name}.", f"{name}[")) or name.startswith(f"{field}.") for name in changes
    )


def inside(field: str, name: str) -> str:
    """The dotted name of the field `name` of `field`, which is empty for the file as a whole."""
    return f"{field}.{name}" if field else name


def all_of(mistakes: Iterable[tuple[object, str, str]]) -> ConfigError:
    """One error for many: a line "source: field: sentence" each."""
    return ConfigError("\n".join(printable(f"{source}: {field}: {text}") for source, field, text in mistakes))


def shown(value: Any) -> str:
    """A value as it would look in YAML, on one line and not too long."""
    if isinstance(value, int) and value.bit_length() > 63:
        return "a whole number of more than 63 bits"  # of very long ones Python refuses to write the digits
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
