"""Which commands, arguments and options `golf` has: those of tests/data/command_line.txt, no more and no fewer.

After a change on purpose the file is written anew by:  python tests/test_command_line.py > tests/data/command_line.txt
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

FROZEN = Path(__file__).with_name("data") / "command_line.txt"


def golf_command() -> Any:
    """The command that `python -m orchestrator` runs, whichever module it is made in."""
    with patch.object(typer.Typer, "__call__", autospec=True) as called:
        runpy.run_module("orchestrator", run_name="__main__")
    (app,) = called.call_args.args
    return typer.main.get_command(app)


def lines_of(command: Any, name: str = "golf") -> Iterator[str]:
    """The command, each of its parameters, and then those of its subcommands in the order of the alphabet."""
    yield name
    yield from sorted(f"{name} {spelt(parameter)}" for parameter in command.params)
    for inner, subcommand in sorted(getattr(command, "commands", {}).items()):
        yield from lines_of(subcommand, f"{name} {inner}")


def spelt(parameter: Any) -> str:
    """One argument or option: [in brackets] where it can be left out, with ... where it can be given again."""
    if parameter.param_type_name == "argument":
        text = (parameter.metavar or parameter.name).strip("[].").upper() + ("..." if parameter.nargs != 1 else "")
    else:
        text = " / ".join((*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            text += " VALUE" + ("..." if parameter.multiple else "")
    return text if parameter.required else f"[{text}]"


def test_the_command_line_is_as_it_was() -> None:
    found = list(lines_of(golf_command()))
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    assert found == frozen, "a change on purpose? python tests/test_command_line.py > tests/data/command_line.txt"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines_of(golf_command()))
