"""What a job file may say, made from the models that read it: the JSON Schema for editors (draft 2020-12), and the
reference in Markdown, docs/job.md.

What the schema refuses, `orchestrator.job.load.load_job` refuses too. The reverse does not hold: what only several
fields together decide, such as `batch_tokens` that no `seq_len` divides, is said by the reader alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from golf_core.config import PRESETS
from orchestrator.job.document import MAY_BE_EMPTY, inside
from orchestrator.job.load import Job, JobFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
GROUPED = "^[1-9][0-9]{0,2}(_[0-9]{3})+$"
"""Numbers such as 16_000_000, which are text to editors, as they read YAML 1.2."""
KEYWORDS = ("anyOf", "enum", "type", "items")
"""What makes up the type of a value of the configuration."""

Schema = dict[str, Any]


@dataclass(frozen=True)
class ConfigField:
    """One value of the configuration."""

    path: str
    """Dotted, such as `evaluate.mixer.orders`."""
    kind: Schema
    """Its type."""
    meaning: str
    """The docstring under the field; empty where its name says it all."""
    defaults: Mapping[str, Any]
    """Its value in each preset, as JSON has it."""

    @property
    def name(self) -> str:
        """Within its group."""
        return self.path.rpartition(".")[2]

    @property
    def schema(self) -> Schema:
        """With its meaning and its default, or the defaults of the presets in words where they differ."""
        values = list(self.defaults.values())
        if all(value == values[0] for value in values):
            return {**self.kind, **({"description": self.meaning} if self.meaning else {}), "default": values[0]}
        differing = ", ".join(f"{_plain(value)} ({name})" for name, value in self.defaults.items())
        meaning = f"{sentence(self.meaning)} " if self.meaning else ""
        return {**self.kind, "description": f"{meaning}Default: {differing}."}


@dataclass(frozen=True)
class ConfigGroup:
    """One dataclass of the configuration."""

    path: str
    """Dotted; empty for the whole."""
    meaning: str
    fields: tuple[ConfigField, ...]
    """Its own values, without those of the groups within."""


def job_schema() -> Schema:
    """The schema of a job file, as JSON has it."""
    body = _tidy(JobFile.model_json_schema(schema_generator=_Untitled))
    properties = {name: body["properties"][name] for name in ("name", "preset", "overrides")} | body["properties"]
    for name, section in properties.items():
        if "$ref" in section:
            section["description"] = body["$defs"][_target(section)]["description"]
            if name in MAY_BE_EMPTY:
                section["anyOf"] = [{"$ref": section.pop("$ref")}, {"type": "null"}]
    preset = properties["preset"]
    preset["description"] = f"the configuration to begin with: {preset['description']}"
    properties["overrides"] = {
        "description": f"{properties['overrides']['description']}; names may be nested or dotted",
        "anyOf": [{"$ref": "#/$defs/overrides"}, {"type": "null"}],
    }
    head = {"$schema": DIALECT, "title": "Job file", "description": body.pop("description")}
    body["properties"] = properties
    _whole_conditions(body)
    body["$defs"] |= {_definition(group.path): _group_schema(group.path) for group in config_groups()}
    for schema in _mappings(body):
        if isinstance(schema.get("description"), str):  # a field of that name is a mapping
            schema["description"] = sentence(schema["description"])
        if schema.get("type") in ("integer", "number"):
            wanted = "a whole number" if schema["type"] == "integer" else "a number"
            schema |= {"type": [schema["type"], "string"], "pattern": GROUPED, "patternErrorMessage": f"Give {wanted}."}
    return {**head, **body}


def config_groups() -> tuple[ConfigGroup, ...]:
    """The groups of the configuration, the whole first, each before the groups within it."""
    definitions = _tidy(Job.model_json_schema(schema_generator=_Untitled)["$defs"])
    return tuple(_groups("", definitions["GolfConfig"], definitions))


def sentence(description: str) -> str:
    """A description that completes "give ...", or a docstring, as prose that stands alone."""
    text = " ".join(description.split())
    if text.partition(" ")[0] in ("a", "an", "the", "at", "how", "where"):  # other beginnings are values
        text = text[0].upper() + text[1:]
    return text if not text or text.endswith(".") else f"{text}."


# --- the job file's own sections --------------------------------------------------------------------


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _whole_conditions(body: Schema) -> None:
    """What the models check in code and a schema can say as well."""
    body["properties"]["seeds"]["uniqueItems"] = True
    null, definitions = {"type": "null"}, body["$defs"]
    definitions["Baseline"]["oneOf"] = [
        {"required": ["bpb"], "properties": {"bpb": {"type": "array"}, "mean": null}},
        {"required": ["mean"], "properties": {"mean": {"type": "number"}, "bpb": null}},
    ]
    definitions["Resources"] |= {
        "if": {"required": ["nodes"], "properties": {"nodes": {"const": 2}}},
        "then": {"required": ["ranks"], "properties": {"ranks": {"multipleOf": 2}}},
    }


def _tidy(value: Any) -> Any:
    """The same schema without what says nothing: titles of models, `.0` of whole numbers."""
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items() if key != "title" or isinstance(item, dict)}
    if isinstance(value, (list, tuple)):
        return [_tidy(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mappings(schema: Any) -> Iterator[Schema]:
    """Every mapping within a schema, itself included."""
    if isinstance(schema, dict):
        yield schema
    for item in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _mappings(item)


# --- the configuration, under `overrides` -----------------------------------------------------------


def _group_schema(path: str) -> Schema:
    """A mapping with every value and group below `path`, under each dotted name that can stand there."""
    properties: Schema = {}
    for group in config_groups():
        place = f"#/$defs/{_definition(group.path)}"
        if group.path == path:
            properties |= {field.name: field.schema for field in group.fields}
        elif group.path.startswith(inside(path, "")):
            below = group.path.removeprefix(inside(path, ""))
            properties[below] = {"$ref": place, "description": group.meaning}
            properties |= {
                f"{below}.{field.name}": {"$ref": f"{place}/properties/{field.name}"} for field in group.fields
            }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _groups(path: str, group: Schema, definitions: Schema) -> Iterator[ConfigGroup]:
    presets = {name: make() for name, make in PRESETS.items()}
    fields, within = [], []
    for name, field in group["properties"].items():
        dotted = inside(path, name)
        if "$ref" in field:
            within.append((dotted, definitions[_target(field)]))
            continue
        kind = {key: field[key] for key in KEYWORDS if key in field and not (key == "type" and "enum" in field)}
        meaning = re.sub(r"\bNone\b", "null", " ".join(field.get("description", "").split()))
        defaults = {preset: _tidy(attrgetter(dotted)(config)) for preset, config in presets.items()}
        fields.append(ConfigField(dotted, kind, meaning, defaults))
    yield ConfigGroup(path, " ".join(group["description"].split()), tuple(fields))
    for dotted, inner in within:
        yield from _groups(dotted, inner, definitions)


def _definition(path: str) -> str:
    return f"overrides.{path}" if path else "overrides"


def _target(field: Schema) -> str:
    """The name of the definition that a schema refers to."""
    return str(field["$ref"]).rpartition("/")[2]


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# --- the reference in Markdown ----------------------------------------------------------------------

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
    parts = [HEAD, _section("", schema)]
    for path, section in _sections("", schema, schema["$defs"]):
        parts.append(f"## `{path}`\n\n{section['description']}\n\n{_section(path, section)}")
    parts.append(f"## `overrides`: the configuration\n\n{OVERRIDES}")
    parts += [_group(group) for group in config_groups() if group.fields]
    return "\n".join(parts)


def _sections(path: str, section: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections below one, with their dotted names, each before those within it."""
    for name, field in section["properties"].items():
        referred = [_target(option) for option in (field, *field.get("anyOf", ())) if "$ref" in option]
        if referred and name != "overrides":
            dotted, inner = inside(path, name), definitions[referred[0]]
            yield dotted, inner
            yield from _sections(dotted, inner, definitions)


def _section(path: str, section: Schema) -> str:
    rows = []
    for name, field in section["properties"].items():
        default = _value(field["default"]) if "default" in field else ""
        if name in section.get("required", ()):
            default = "required"
        rows.append((f"`{name}`", _type(field, inside(path, name)), default, _prose(field.get("description", ""))))
    return _table(("field", "type", "default", "meaning"), rows)


def _group(group: ConfigGroup) -> str:
    rows = []
    for field in group.fields:
        record, small = _value(field.defaults["record"]), _value(field.defaults["small"])
        own = "" if small == record else small
        rows.append((f"`{field.path}`", _type(field.kind, field.path), record, own, _prose(field.meaning)))
    table = _table(("field", "type", "record", "small", "meaning"), rows)
    title = f"`{group.path}`" if group.path else "At the top"
    return f"### {title}\n\n{sentence(group.meaning)}\n\n{table}"


def _prose(description: str) -> str:
    """A field's description: without the type, which stands beside it, and with names and values set as code."""
    parts = sentence(TYPE_FIRST.sub("", description)).split("`")
    parts[::2] = [NAME.sub(lambda name: f"`{name[0]}`", part) for part in parts[::2]]
    return VALUE.sub(r"`\1`", "`".join(parts))


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
        return re.sub(r"\bnumber\b", "numbers", f"list of {_option(option['items'], path)}")
    return _bounded(WORDS[kind], option)


def _bounded(word: str, option: Schema) -> str:
    low, above, high = (option.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if above is not None:
        word = f"{word} above {above}"
        return word if high is None else f"{word}, at most {high:,}"
    if low is None:
        return word
    return f"{word}, {low} or more" if high is None else f"{word}, {low} to {high:,}"


def _anchor(path: str) -> str:
    """What GitHub makes of a section's heading."""
    return "overrides-the-configuration" if path == "overrides" else path.replace(".", "")


def _value(value: Any) -> str:
    large = isinstance(value, int) and value >= 100_000
    return f"`{value:_}`" if large else f"`{_plain(value)}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)
