"""A dataclass as the options of a command. Nothing heavy is imported here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def with_options(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a typer command have the fields of the dataclass `kind` as options; it gets them together, as `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            options = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            command(**given, options=options)

        own = inspect.signature(command, eval_str=True).parameters.values()
        offered = inspect.signature(kind, eval_str=True).parameters.values()
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *offered) if p.name != "options"]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
