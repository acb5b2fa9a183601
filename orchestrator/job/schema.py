"""The JSON Schema (draft 2020-12) of job files, made from the models that read them: for editors and the reference.

What it refuses, `orchestrator.job.load.load_job` refuses too. The reverse does not hold: what only several fields
together decide, such as `batch_tokens` that no `seq_len` divides, is said by the reader alone.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import Field, create_model
from pydantic.json_schema import GenerateJsonSchema

import golf_core.config
from golf_core.config import PRESETS, GolfConfig
from orchestrator.job.load import _JobFile
from orchestrator.job.sections import DataFiles

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAY_BE_EMPTY = ("overrides", "resources", "budgets", "mlflow")
"""Headings whose lines may all be commented out (`orchestrator.job.document.apply_changes`)."""
GROUPED = "^[1-9][0-9]{0,2}(_[0-9]{3})+$"
"""Numbers such as 16_000_000, which are text to editors, as they read YAML 1.2."""
SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}

Schema = dict[str, Any]


@dataclass(frozen=True)
class ConfigField:
    """One value of the configuration."""

    path: str
    """Dotted, such as `evaluate.mixer.orders`."""
    hint: Any
    """Its type."""
    meaning: str
    """The docstring under the field; empty where its name says it all."""
    defaults: Mapping[str, Any]
    """Its value in each preset, as JSON has it."""

    @property
    def name(self) -> str:
        """Within its group."""
        return self.path.rpartition(".")[2]


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
    # The reader decides by hand which kind of `data` is there; here both are shown.
    data = Literal["sample"] | DataFiles
    described = Field(description=_JobFile.model_fields["data"].description)
    shown: Any = create_model("JobFile", __base__=_JobFile, data=(data, described))
    made = shown.model_json_schema(schema_generator=_Untitled)
    body = _tidy({key: value for key, value in made.items() if key != "title"})
    for name, section in body["properties"].items():
        if "$ref" in section:
            section["description"] = body["$defs"][section["$ref"].rpartition("/")[2]]["description"]
            if name in MAY_BE_EMPTY:
                section["anyOf"] = [{"$ref": section.pop("$ref")}, {"type": "null"}]
    preset = body["properties"]["preset"]
    preset["description"] = f"the configuration to begin with: {preset['description']}"
    body["properties"]["overrides"] = {
        "description": f"{body['properties']['overrides']['description']}; names may be nested or dotted",
        "anyOf": [{"$ref": "#/$defs/overrides"}, {"type": "null"}],
    }
    _whole_conditions(body)
    body["$defs"] |= {_definition(group.path): _group_schema(group.path) for group in config_groups()}
    for schema in _mappings(body):
        if isinstance(schema.get("description"), str):  # a field of that name is a mapping
            schema["description"] = sentence(schema["description"])
        if schema.get("type") in ("integer", "number"):
            wanted = "a whole number" if schema["type"] == "integer" else "a number"
            schema |= {"type": [schema["type"], "string"], "pattern": GROUPED, "patternErrorMessage": f"Give {wanted}."}
    head = {
        "$schema": DIALECT,
        "title": "Job file",
        "description": "What `golf run` takes; docs/job.md says it in full.",
    }
    return {**head, **body}


def config_groups() -> tuple[ConfigGroup, ...]:
    """The groups of the configuration, the whole first, each before the groups within it."""
    return tuple(_groups(GolfConfig, ""))


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
    if isinstance(value, list):
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
    inside = f"{path}." if path else ""
    properties: Schema = {}
    for group in config_groups():
        place = f"#/$defs/{_definition(group.path)}"
        if group.path == path:
            properties |= {field.name: field_schema(field) for field in group.fields}
        elif group.path.startswith(inside):
            below = group.path.removeprefix(inside)
            properties[below] = {"$ref": place, "description": group.meaning}
            properties |= {
                f"{below}.{field.name}": {"$ref": f"{place}/properties/{field.name}"} for field in group.fields
            }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _definition(path: str) -> str:
    return f"overrides.{path}" if path else "overrides"


def field_schema(field: ConfigField) -> Schema:
    """The schema of one value of the configuration."""
    schema = _typed(field.hint)
    values = list(field.defaults.values())
    if all(value == values[0] for value in values):
        return {**schema, **({"description": field.meaning} if field.meaning else {}), "default": values[0]}
    differing = ", ".join(f"{_json(value)} ({name})" for name, value in field.defaults.items())
    meaning = f"{sentence(field.meaning)} " if field.meaning else ""
    return {**schema, "description": f"{meaning}Default: {differing}."}


def _typed(hint: Any) -> Schema:
    """The schema of a type that a configuration may have. Raises `KeyError` for one that is new."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {
            "anyOf": [_typed(argument) for argument in arguments if argument is not type(None)] + [{"type": "null"}]
        }
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _typed(arguments[0])}
    return {"type": SCALARS[hint]}


def _groups(cls: type, path: str) -> Iterator[ConfigGroup]:
    hints, docstrings = typing.get_type_hints(cls), _docstrings()[cls.__name__]
    presets = {name: make() for name, make in PRESETS.items()}
    fields, within = [], []
    for field in dataclasses.fields(cls):
        name = f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(hints[field.name]):
            within.append((hints[field.name], name))
            continue
        defaults = {preset: _value(config, name) for preset, config in presets.items()}
        fields.append(ConfigField(name, hints[field.name], docstrings.get(field.name, ""), defaults))
    yield ConfigGroup(path, " ".join((cls.__doc__ or "").split()), tuple(fields))
    for inner, name in within:
        yield from _groups(inner, name)


def _value(config: GolfConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return _tidy(list(value) if isinstance(value, tuple) else value)


def _json(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _docstrings() -> Mapping[str, Mapping[str, str]]:
    """The docstring under each field of each class of the configuration, read off the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(golf_core.config)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                field.target.id: re.sub(r"\bNone\b", "null", " ".join(text.value.value.split()))
                for field, text in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return found
