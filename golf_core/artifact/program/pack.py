"""A program's source as the file that ships: compressed, in a Python script that unpacks and runs itself."""

from __future__ import annotations

import ast
import base64
import lzma

from golf_core.artifact.program.modules import ProgramError

# `__file__` names the unpacked text too: torch.compile, Triton and `inspect` ask `linecache` for the source of a
# function's file, and an entry there without a modification time is never compared with the disk. So nothing is
# written, and any number of ranks can start at once from a folder that they may not write to. The unpacked text
# begins with as many empty lines as the stub has, so that no line of the program has the number of the packed
# one, which a traceback would print.
STUB = """\
# Packed: LZMA, base85. The same program in plain text: train_gpt_readable.py
import base64,linecache,lzma
s=lzma.decompress(base64.b85decode({payload!r})).decode()
linecache.cache[__file__]=len(s),None,s.splitlines(True),__file__
exec(compile(s,__file__,'exec'))
"""
EMPTY_LINES = "\n" * STUB.count("\n")
# The oldest container has the smallest header; these settings suit text (no alignment, longer literal context).
FORMAT = lzma.FORMAT_ALONE
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]


def pack(source: str) -> bytes:
    """The script that runs `source`."""
    packed = lzma.compress((EMPTY_LINES + source).encode("utf-8"), format=FORMAT, filters=FILTERS)
    return STUB.format(payload=base64.b85encode(packed).decode("ascii")).encode("ascii")


def unpack(program: bytes) -> str:
    """The source inside a script that `pack` made; nothing of it is run. Raises `ProgramError` for other files."""
    try:
        calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
        payload = next(node.args[0] for node in calls if ast.unparse(node.func) == "base64.b85decode")
        source = lzma.decompress(base64.b85decode(ast.literal_eval(payload))).decode("utf-8")
    except (SyntaxError, ValueError, StopIteration, TypeError, lzma.LZMAError):
        raise ProgramError("not a program that this software packed") from None
    return source.lstrip("\n")
