"""The reference of job files in Markdown, docs/job.md, made from their schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.job.schema import (
    MAY_BE_EMPTY,
    ConfigField,
    ConfigGroup,
    Schema,
    config_groups,
    field_schema,
    job_schema,
    sentence,
)

TYPE_FIRST = re.compile(r"^A (whole )?number( above 0| from \d+ to \d+| of at least \d+)?, ", re.IGNORECASE)
NAME = re.compile(r"(?<!['\w])[\w.*/]*(?:\w[_*]|[_*]\w)[\w.*/]*\b")
"""What Markdown would take for emphasis, such as eval_seconds or *_val_*.bin."""
VALUE = re.compile(r"(?<![`\w])(null|true|false)\b")
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
HEAD = """\
# The job file

<!-- written by `golf schema --markdown`; a test compares the two -->

A job file is YAML, and says all that a run does. Four fields are enough:

```yaml
name: mine
preset: small
seeds: [42, 1337, 2024]
data: sample
```

[write_a_job.md](write_a_job.md) goes through one step by step; [`jobs/smoke.yaml`](../jobs/smoke.yaml) has every
section. It is read strictly: an unknown field, a field given twice or a value of another type is refused with a
sentence that names the field and the remedy. A heading `overrides`, `resources`, `budgets` or `mlflow` without lines
below it means the defaults. `--set FIELD=VALUE` replaces any field by its dotted name.

**In an editor.** [`job.schema.json`](job.schema.json) is the JSON Schema of this page (`golf schema` prints it). With
the YAML language server (tried: 1.25), which most editors have, this line in a job file gives completion and checks
while typing:

```yaml
# yaml-language-server: $schema=../docs/job.schema.json
```
"""
OVERRIDES = """\
Names are nested or dotted: `train: {iterations: 100}` and `train.iterations: 100` are the same. The columns `record`
and `small` are the presets' values; an empty cell under `small` means the record's. A field without an explanation has
the usual name of what it is.

In a job two values follow the budgets unless they are overridden: `artifact.cap_bytes` is `budgets.artifact_bytes`, and
`train.wallclock_seconds`, where the preset has a clock, is `budgets.train_seconds`.
"""


def job_reference() -> str:
    """The page, with a line break at its end."""
    schema = job_schema()
    parts = [HEAD, _section("", schema, schema)]
    for path, section in _sections("", schema, schema):
        title = f"`{path}`"
        parts.append(f"## {title}\n\n{section['description']}\n\n{_section(path, section, schema)}")
    parts.append(f"## `overrides`: the configuration\n\n{OVERRIDES}")
    parts += [_group(group) for group in config_groups() if group.fields]
    return "\n".join(parts)


# --- sections ---------------------------------------------------------------------------------------


def _sections(path: str, section: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections below one, with their dotted names, each before those within it."""
    for name, field in section["properties"].items():
        inner = _referred(field, schema)
        if inner is not None and name != "overrides":
            dotted = f"{path}.{name}" if path else name
            yield dotted, inner
            yield from _sections(dotted, inner, schema)


def _referred(field: Schema, schema: Schema) -> Schema | None:
    """The section that a field holds, if it holds one."""
    for option in (field, *field.get("anyOf", ())):
        if "$ref" in option:
            found: Schema = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return found
    return None


def _section(path: str, section: Schema, schema: Schema) -> str:
    rows = []
    for name, field in section["properties"].items():
        if name in section.get("required", ()):
            default = "required"
        elif "default" in field:
            default = _value(field["default"])
        else:
            default = ""
        rows.append((f"`{name}`", _type(field, f"{path}.{name}" if path else name), default, _prose(field)))
    return _table(("field", "type", "default", "meaning"), rows)


def _prose(field: Schema) -> str:
    """A field's description: without the type, which stands beside it, and with names and values set as code."""
    text = sentence(TYPE_FIRST.sub("", field.get("description", "")))
    inside = text.split("`")
    inside[::2] = [NAME.sub(lambda name: f"`{name[0]}`", part) for part in inside[::2]]
    text = "`".join(inside)
    return VALUE.sub(r"`\1`", text)


def _type(field: Schema, path: str) -> str:
    """A field's type in words; a section's is a link to it."""
    options = field.get("anyOf", [field])
    if path in MAY_BE_EMPTY:
        options = [option for option in options if option.get("type") != "null"]  # the page says it once
    return " or ".join(_option(option, path) for option in options)


def _option(option: Schema, path: str) -> str:
    if "$ref" in option:
        return f"[mapping](#{_anchor(path)})"
    if "const" in option:
        return f"`{option['const']}`"
    if "enum" in option:
        return " or ".join(f"`{value}`" for value in option["enum"])
    kind = option["type"][0] if isinstance(option["type"], list) else option["type"]
    if kind == "array":
        return f"list of {_plural(_option(option['items'], path))}"
    return _bounded(WORDS[kind], option)


def _bounded(word: str, option: Schema) -> str:
    low, above, high = (option.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None:
        word = f"{word} above {above}"
        return word if high is None else f"{word}, at most {high:,}"
    if low is None:
        return word
    return f"{word}, {low} or more" if high is None else f"{word}, {low} to {high:,}"


def _plural(word: str) -> str:
    return re.sub(r"\bnumber\b", "numbers", word)


def _anchor(path: str) -> str:
    """What GitHub makes of a section's heading."""
    return "overrides-the-configuration" if path == "overrides" else path.replace(".", "")


# --- the configuration ------------------------------------------------------------------------------


def _group(group: ConfigGroup) -> str:
    title = f"`{group.path}`" if group.path else "At the top"
    rows = [_row(field) for field in group.fields]
    table = _table(("field", "type", "record", "small", "meaning"), rows)
    meaning = sentence(group.meaning)
    return f"### {title}\n\n{meaning}\n\n{table}"


def _row(field: ConfigField) -> tuple[str, ...]:
    record, small = field.defaults["record"], field.defaults["small"]
    meaning = sentence(field.meaning) if field.meaning else ""
    return (
        f"`{field.path}`",
        _type(field_schema(field), field.path),
        _value(record),
        "" if small == record else _value(small),
        _prose({"description": meaning}),
    )


# --- Markdown ---------------------------------------------------------------------------------------


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`" if value is not None else "`null`"
    return f"`{value:,}`".replace(",", "_") if isinstance(value, int) and value >= 100_000 else f"`{value}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)
