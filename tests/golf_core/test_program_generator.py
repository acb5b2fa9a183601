"""The generator of the single-file program, on small packages: every form of it does what the package does."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from golf_core.artifact.program.flatten import Recipe, flatten
from golf_core.artifact.program.modules import Package, ProgramError
from golf_core.artifact.program.pack import pack, unpack
from golf_core.artifact.program.strip import strip

ENTRY = "pkg.main.entry"


def write(folder: Path, modules: dict[str, str]) -> Path:
    """A package `pkg` of the given modules (paths to sources) in `folder`."""
    root = folder / "pkg"
    for name, source in {"__init__.py": "", **modules}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.parent.relative_to(folder).parents:
            (folder / parent / "__init__.py").touch() if parent != Path() else None
        (path.parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(source).lstrip("\n"))
    return root


def flat(folder: Path, modules: dict[str, str], **replaced: str) -> str:
    return flatten(Package.read("pkg", write(folder, modules)), Recipe(ENTRY, replaced))


def output(*command: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_everywhere(folder: Path, modules: dict[str, str]) -> str:
    """What the package prints, after all forms of the program have printed it too; returns the readable form."""
    readable = flat(folder, modules)
    expected = output("-c", "from pkg.main import entry; entry()", cwd=folder)
    assert expected
    alone = folder / "alone"
    alone.mkdir()
    for name, content in {"r": readable, "s": strip(readable), "p": pack(strip(readable)).decode()}.items():
        (alone / f"{name}.py").write_text(content)
        assert output("-I", f"{name}.py", cwd=alone) == expected, name
    assert "pkg" not in {line.split()[1].split(".")[0] for line in readable.splitlines() if "import " in line[:7]}
    return readable


def test_same_names_in_two_modules(tmp_path: Path) -> None:
    readable = same_everywhere(tmp_path, {
        "a.py": "LIMIT = 1\nclass Kind:\n    x = LIMIT\ndef _load():\n    return LIMIT, Kind.x\n"
                "def load():\n    return _load()\n",
        "b.py": "LIMIT = 2\nclass Kind:\n    x = LIMIT\ndef _load():\n    return LIMIT, Kind.x\n"
                "def load():\n    return f'{_load()} {_load()[0]}' f'{LIMIT:>4}'\n",
        "main.py": "from pkg import a, b\ndef entry():\n    print(a.load(), b.load())\n",
    })  # fmt: skip
    for name in ("A_LIMIT = 1", "B_LIMIT = 2", "class AKind", "class BKind", "def _a_load", "def b_load"):
        assert name in readable


def test_a_local_variable_does_not_catch_a_name_of_another_module(tmp_path: Path) -> None:
    """`rows.load` becomes a plain name; in a function with a variable `load` that name must be another."""
    same_everywhere(tmp_path, {
        "rows.py": "def load(n):\n    return n * 2\ndef keep(n):\n    return n\n",
        "main.py": """
            from pkg import rows
            def entry():
                load = 3
                print(rows.load(load), [rows.keep(keep) for keep in range(3)], (lambda load: rows.load(load))(7))
                class Inner:
                    keep = 1
                    kept = rows.keep(keep)
                print(Inner.kept)
        """,
    })  # fmt: skip


def test_every_way_of_importing(tmp_path: Path) -> None:
    same_everywhere(tmp_path, {
        "files.py": "def read():\n    return 'read'\nNAME = 'n'\n",
        "deep/inner.py": "from .. import files\nfrom ..files import NAME as renamed\nfrom . import other\n"
                         "def get():\n    return files.read() + renamed + other.value()\n",
        "deep/other.py": "def value():\n    return 'v'\n",
        "deep/__init__.py": "from pkg.deep.other import value as exported\n",
        "main.py": """
            import os.path
            import pkg.deep.inner
            import pkg.files as f
            from pkg import deep
            from pkg.deep import exported, inner as i
            def entry():
                import pkg.deep.other
                import json as j
                from pkg.files import read as local_read
                print(pkg.deep.inner.get(), f.read(), i.get(), exported(), deep.exported(), pkg.deep.other.value())
                print(local_read(), j.dumps([1]), os.path.join("a", "b"))
                if True:
                    from pkg.files import NAME
                print(NAME)
                def only_imports():
                    from pkg.files import NAME
                print(only_imports())
        """,
    })  # fmt: skip


def test_types_that_are_read_at_run_time(tmp_path: Path) -> None:
    """Fields' annotations are resolved by name while the program runs, aliases and renamed classes included."""
    readable = same_everywhere(tmp_path, {
        "a.py": "from dataclasses import dataclass\n@dataclass\nclass Kind:\n    n: int = 1\n",
        "b.py": """
            from __future__ import annotations
            import time
            from dataclasses import dataclass, field
            from typing import TYPE_CHECKING, Annotated, Literal, NewType
            from pkg import a
            if TYPE_CHECKING:
                from collections.abc import Sequence
            Mode = Literal["fast", "slow"]
            Step = NewType("Step", int)
            @dataclass(frozen=True)
            class Kind:
                '''Its own.'''
                mode: Mode
                other: a.Kind = field(default_factory=a.Kind)
                quoted: "a.Kind | None" = None
                listed: list["Kind"] = field(default_factory=list)
                plain: Annotated[int, "Kind"] = 3
                time: float = field(default_factory=time.time)
                def method(self, others: Sequence[Kind]) -> Step:
                    return Step(len(others))
        """,
        "main.py": """
            from __future__ import annotations
            import typing
            from pkg.b import Kind
            def entry() -> None:
                hints = typing.get_type_hints(Kind)
                print(len(hints), hints["mode"], hints["quoted"].__args__[0]().n, hints["listed"].__args__[0] is Kind)
                print(hints["other"]().n, Kind("fast").time > 1e9, Kind("slow").method([]))
        """,
    })  # fmt: skip
    assert "if TYPE_CHECKING:\n    from collections.abc import Sequence" in readable
    assert "Sequence" not in strip(readable) and "'''Its own.'''" in readable


def test_only_what_is_used(tmp_path: Path) -> None:
    readable = same_everywhere(tmp_path, {
        "used.py": '"""What is used."""\nimport json\nimport csv\n# Why three.\nTHREE = 3\n"""Three."""\nFOUR = 4\n'
                   "def dead():\n    return csv, FOUR\ndef alive():\n    '''Doc.'''\n"
                   "    return json.dumps(THREE)  # c\n",
        "unused.py": "print('side effect')\n",
        "main.py": "from pkg.used import alive\ndef dead_too():\n    from pkg import unused\ndef entry():\n"
                   "    print(alive())\n",
    })  # fmt: skip
    for dead in ("csv", "FOUR", "dead", "unused", "side effect"):
        assert dead not in readable
    for kept in ("# Why three.\nTHREE = 3\n" + '"""Three."""', "# What is used.", "'''Doc.'''", "# c", "pkg/used.py"):
        assert kept in readable
    stripped = strip(readable)
    assert "Doc" not in stripped and "Why" not in stripped and "# " not in stripped


def test_imports_from_outside_that_share_a_name(tmp_path: Path) -> None:
    same_everywhere(tmp_path, {
        "a.py": "import time\nfrom math import floor as f\ndef get():\n    return time.time() > 0, f(1.5)\n",
        "b.py": "from time import time\nfrom math import ceil as f\ndef get():\n    return time() > 0, f(1.5)\n",
        "c.py": "def time():\n    return 'own'\ndef get(math=1):\n    return time(), math\n",
        "d.py": "import math\ndef floor(x):\n    return [math.floor(x)]\ndef get():\n    return floor(2.5)\n",
        "main.py": "from pkg import a, b, c, d\ndef entry():\n    print(a.get(), b.get(), c.get(), d.get())\n",
    })  # fmt: skip


def test_a_definition_that_is_called_like_a_builtin(tmp_path: Path) -> None:
    same_everywhere(tmp_path, {
        "a.py": "def sum(x):\n    return 'own'\ndef get():\n    return sum([1])\n",
        "main.py": "from pkg import a\ndef entry():\n    print(sum([1, 2]), a.get(), a.sum(0))\n",
    })  # fmt: skip


def test_scopes(tmp_path: Path) -> None:
    same_everywhere(tmp_path, {
        "other.py": "count = 10\ndef x():\n    return 'x'\n",
        "main.py": """
            from contextlib import contextmanager, suppress
            from pkg import other
            from pkg.other import x
            count = 0
            try:
                import tomllib as toml
            except ImportError:
                toml = None
            @contextmanager
            def block(name, *, default=x()):
                global count
                count += 1
                yield f"{name}{default}{count=}"
            def closure():
                total = 0
                def add(n, /, *more, scale=1, **rest):
                    nonlocal total
                    total += n * scale + sum(more) + len(rest)
                    return total
                return add
            class Base:
                count = count
                names = [n for n in "ab"]
                def get(self):
                    return count, self.count, __class__.__name__, [count for count in range(2)]
            def entry():
                with block("b") as text:
                    print(text, other.count, toml is not None)
                add = closure()
                print(add(1), add(2, 3, scale=2, extra=0), Base().get(), Base.names)
                with suppress(ZeroDivisionError):
                    1 / 0
                try:
                    raise ValueError("e")
                except ValueError as x:
                    print(x)
                if (n := len("abc")) > 2:
                    print(n, {k: v for k, v in zip("ab", range(2))}, [m := i for i in range(2)], m)
                match (1, [2, 3], {"k": 4, "l": 5}):
                    case (a, [b, *c], {"k": d, **e}):
                        print(a, b, c, d, e)
                y: int = 1
                z: int
                del y
                print(*sorted(entry.__code__.co_varnames)[:0], "end")
        """,
    })  # fmt: skip


def test_the_order_of_imports_is_that_of_python(tmp_path: Path) -> None:
    """Constants are computed from other modules'; a module imported late imports the one that needs it."""
    same_everywhere(tmp_path, {
        "z.py": "from pkg.y import BASE\nTABLE = {BASE: BASE + 1}\n",
        "y.py": "BASE = 4\ndef late():\n    from pkg.late import Late\n    return Late().value\n",
        "late.py": "from pkg.y import BASE\nclass Late:\n    value = BASE * 2\n",
        "main.py": "from pkg.z import TABLE\nfrom pkg.y import late\ndef entry():\n    print(TABLE, late())\n",
    })  # fmt: skip


def test_replacements_and_constants(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "heavy.py": "import csv\ndef size():\n    return csv\n",
        "light.py": "def size():\n    return len(__file__) > 0\n",
        "main.py": "from pkg.heavy import size\nCONFIG: dict = {}\ndef entry():\n    print(size(), CONFIG)\n",
    })  # fmt: skip
    package = Package.read("pkg", root, {"pkg.main.CONFIG": "{'ä': 1}"})
    readable = flatten(package, Recipe(ENTRY, {"pkg.heavy.size": "pkg.light.size"}))
    assert "csv" not in readable and readable.index("light.py") < readable.index("main.py")
    for name, text in {"r.py": readable, "p.py": pack(strip(readable)).decode()}.items():
        (tmp_path / name).write_text(text)
        assert output("-I", name, cwd=tmp_path) == "True {'ä': 1}\n"
    with pytest.raises(ProgramError, match="no constant ABSENT"):
        Package.read("pkg", root, {"pkg.main.ABSENT": "1"})
    with pytest.raises(ProgramError, match=r"holds no source of pkg\.absent"):
        Package.read("pkg", root, {"pkg.absent.X": "1"})


REFUSED = {
    "from pkg.other import *": "name what is imported",
    "import pkg.other, json": "two statements",
    "import pkg.absent": "there is no module pkg.absent",
    "from pkg.absent import x": "there is no module pkg.absent",
    "print('at import')": "defines nothing",
    "for i in range(3): pass": "defines nothing",
    "TABLE = {}\nTABLE['x'] = 1": "defines nothing",
    "def f(): pass\ndef f(): pass": "f is defined twice",
    "import json\njson = 1": "json is defined twice",
    "a = 1; b = 2": "two statements on one line",
    "from pkg import other\ndef f():\n    other.x = 1": "modules cannot be changed",
    "from pkg import other\ndef f():\n    return vars(other)": "a module used as a value",
    "from pkg import other\ndef f():\n    return other.absent": "other.absent is not defined",
    "def f():\n    return globals()['x']": "finds names by their text",
    "def f():\n    return eval('x')": "finds names by their text",
    "def f():\n    return no_such_name": "no_such_name is not defined",
    "class A:\n    from pkg.other import x": "inside a class",
    "try:\n    from pkg.other import x\nexcept ImportError:\n    x = None\ndef f(): return x": "class, try or if",
    "def f():\n    from pkg.other import x\n    x = 2\n    return x": "both imported and assigned",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1": "only imports may stand under TYPE_CHECKING",
    "from __future__ import division": "only annotations",
    "def f():\n    return __doc__": "__doc__ is not defined",
    "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: '1 +'\n": "is not an expression",
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_is_not_understood_is_refused(source: str, tmp_path: Path) -> None:
    """Better no program than a wrong one."""
    lines = source.splitlines()
    uses = [line.split()[1].split("(")[0].rstrip(":") for line in lines if line.startswith(("def ", "class "))]
    (root := tmp_path / "pkg").mkdir()
    (root / "__init__.py").touch()
    (root / "other.py").write_text("x = 1\n")
    (root / "main.py").write_text(f"{source}\ndef entry():\n    return {', '.join(uses) or 'None'}\n")
    with pytest.raises(ProgramError, match=REFUSED[source]) as caught:
        flatten(Package.read("pkg", root), Recipe(ENTRY))
    assert "pkg.main, line " in str(caught.value)


def test_annotations_stay_where_something_may_read_them() -> None:
    kept = strip(
        "import lib\n@lib.jit\ndef kernel(x, n: lib.constexpr):\n    '''Doc.'''\n"
        "def f(a: int, *b: int, c: str = 'x') -> int:\n    d: int = 1\n    e: int\n    return a + d\n"
        "SIZE: int = 3\nBLOCK: lib.constexpr = 4\n"
        "class A:\n    'Doc.'\n    x: int = SIZE\n    def g(self, y: int) -> 'A':\n        self.z: int = y\n"
        "if __name__ == '__main__':\n    f(c=kernel, a=A, b=BLOCK)\n"
    )
    assert "n: lib.constexpr" in kept and "BLOCK: lib.constexpr = 4" in kept and "x: int = SIZE" in kept
    assert "def f(a, *b, c='x'):" in kept and "self.z = y" in kept and "SIZE = 3" in kept and "Doc" not in kept
    reader = "import inspect\ndef f(a: int):\n    return 1\nif __name__ == '__main__':\n    inspect.signature(f)\n"
    assert "a: int" in strip(reader)


def test_only_pure_locals_are_shortened() -> None:
    stripped = strip(
        "limit = 3\n"
        "def f(first, *, scale=1):\n"
        "    total = first * scale\n"
        "    def inner(total2):\n"
        "        nonlocal total\n"
        "        total += total2\n"
        "        doubled = total * 2\n"
        "        return doubled\n"
        "    values = [inner(value) for value in range(limit)]\n"
        "    class Local:\n"
        "        attribute = 1\n"
        "    try:\n"
        "        raise KeyError\n"
        "    except KeyError as caught:\n"
        "        pass\n"
        "    return values, Local.attribute, f'{values=}'\n"
        "def g():\n"
        "    variable = 1\n"
        "    return locals()\n"
        "if __name__ == '__main__':\n"
        "    print(f(1, scale=2), g(), f(first=2))\n"
    )
    for kept in ("first", "scale", "inner", "total2", "nonlocal total", "attribute", "caught", "limit", "variable"):
        assert kept in stripped
    for gone in ("doubled", "value in", "for value"):
        assert gone not in stripped
    assert "values=" in stripped  # the text of a debugging f-string
    printed: list[object] = []
    exec(compile(stripped, "stripped", "exec"), {"__name__": "__main__", "print": lambda *a: printed.append(a)})
    assert printed == [
        (([4, 6, 10], 1, "values=[4, 6, 10]"), {"variable": 1}, ([4, 6, 10], 1, "values=[4, 6, 10]")),
    ]


def test_pack_and_unpack() -> None:
    source = "if __name__ == '__main__':\n print('ä\"\\'\\n')\n"
    program = pack(source)
    assert unpack(program) == source and program == pack(source)
    for other in (
        b"",
        b"print(1)\n",
        b"\xff\x00",
        program[: len(program) // 2],
        program.replace(b"b85decode('", b"b85decode('zz"),
    ):
        with pytest.raises(ProgramError):
            unpack(other)


def test_source_of_a_packed_program_is_found(tmp_path: Path) -> None:
    """By inspect, by tracebacks and so by torch.compile and Triton; and a process that imports it runs nothing."""
    source = (
        "import inspect\nimport multiprocessing\nimport traceback\nfrom pathlib import Path\n"
        "class A:\n def method(self):\n  raise ValueError('here')\n"
        "def child(n):\n return n + 1\n"
        "if __name__ == '__main__':\n"
        " print(inspect.getsource(A.method).strip(), inspect.getsource(A).count('\\n'), Path(__file__).name)\n"
        " with multiprocessing.get_context('spawn').Pool(1) as pool:\n  print(pool.map(child, [1, 2]))\n"
        " try:\n  A().method()\n except ValueError:\n  print(traceback.format_exc())\n"
        " A().method()\n"
    )
    (tmp_path / "train_gpt.py").write_bytes(pack(source))
    command = [sys.executable, "-I", "train_gpt.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and "ValueError: here" in done.stderr
    assert "def method(self):\n  raise ValueError('here') 3 train_gpt.py" in done.stdout
    assert done.stdout.count("[2, 3]") == 1 and "raise ValueError('here')\nValueError" in done.stdout
    assert "b85decode" not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train_gpt.py"]


def test_torch_compile_takes_a_packed_function(tmp_path: Path) -> None:
    source = (
        "import torch\nclass Layer(torch.nn.Module):\n def forward(self, x):\n  return torch.relu(x).sin()\n"
        "if __name__ == '__main__':\n"
        " layer = Layer()\n x = torch.arange(-2.0, 3.0)\n"
        " compiled = torch.compile(layer, dynamic=False, fullgraph=True, backend='eager')\n"
        " print(torch.equal(compiled(x), layer(x)), torch._dynamo.utils.counters['stats']['unique_graphs'])\n"
    )
    (tmp_path / "train_gpt.py").write_bytes(pack(source))
    assert output("-I", "train_gpt.py", cwd=tmp_path) == "True 1\n"
