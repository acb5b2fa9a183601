"""The generator of the single-file program, on a small package: each form of it does what the package does."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from golf_core.__main__ import main
from golf_core.artifact import program
from golf_core.artifact.program import ProgramError, bundle, is_made_from, minified, needed_modules, pack, unpack
from golf_core.errors import ConfigError

# Every way of importing, names that modules share, types read at run time, and what only tools for source ask for.
PACKAGE = {
    "__init__.py": '"""The package."""\nNAME = "pkg"\n',
    "deep/__init__.py": "from .inner import value as exported\n",
    "deep/inner.py": "from .. import NAME, other\n\n\ndef value():\n    return NAME + other.load(1) + '\\\\'\n",
    "other.py": """
        def load(long_name):
            for long_name in range(long_name):
                renamed = f"{long_name:>3}"
            return renamed
    """,
    "late.py": "def load():\n    return 'late'\n",
    "types.py": """
        from __future__ import annotations
        import typing
        from dataclasses import dataclass, field
        if typing.TYPE_CHECKING:
            from pkg.unused import Never


        @dataclass(frozen=True)
        class Kind:
            '''Its own.'''
            listed: list[Kind] = field(default_factory=list)

            def method(self, never: Never) -> Never:
                '''Fails.'''
                raise ValueError("here")  # comment
    """.replace("'''", '"""'),
    "unused.py": "raise RuntimeError('imported')\n",
    "left_out.py": "import pkg.unused\n",
    "main.py": '''
        import inspect
        import multiprocessing
        import sys
        import traceback
        import typing
        import pkg.deep.inner as inner
        from pkg import other
        from pkg.deep import *
        from pkg.types import Kind

        if len(sys.argv) > 5:
            import pkg.left_out


        def add(given):
            """One more."""
            return given + 1


        def entry(config):
            from pkg.late import load

            print(config, inner.value(), other.load(3), exported(), load(), "pkg.unused" in sys.modules)
            print(typing.get_type_hints(Kind)["listed"].__args__[0] is Kind, "ValueError" in inspect.getsource(Kind))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(add, [1, 2]))
            try:
                Kind().method(None)
            except ValueError:
                print("raise ValueError" in traceback.format_exc())
    ''',
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        (path := tmp_path / "pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return tmp_path / "pkg"


def readable_of(package: Path, config: str = "{'ä': 1}") -> str:
    return bundle(needed_modules(package, "pkg.main", ["pkg.left_out"]), "pkg.main", config)


def output(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_forms_do_what_the_package_does(package: Path, tmp_path: Path) -> None:
    """Alone in a folder, in which they write nothing; processes that they start run nothing twice."""
    (tmp_path / "run.py").write_text(
        "if __name__ == '__main__':\n    from pkg.main import entry\n    entry({'ä': 1})\n"
    )
    expected = output("run.py", cwd=tmp_path)
    assert expected == "{'ä': 1} pkg  0\\   2 pkg  0\\ late False\nTrue True\n[2, 3]\nTrue\n"
    readable = readable_of(package)
    for name, text in {"readable.py": readable, "packed.py": pack(minified(readable)).decode("ascii")}.items():
        (folder := tmp_path / name[:-3]).mkdir()
        (folder / name).write_text(text)
        assert output("-I", name, cwd=folder) == expected
        assert [path.name for path in folder.iterdir()] == [name]


def test_what_the_forms_hold(package: Path) -> None:
    modules = needed_modules(package, "pkg.main", ["pkg.left_out"])
    assert list(modules) == [
        "pkg/__init__.py", "pkg/other.py", "pkg/deep/inner.py", "pkg/deep/__init__.py", "pkg/types.py", "pkg/late.py",
        "pkg/main.py",
    ]  # fmt: skip
    readable = readable_of(package)
    assert all(text in readable for text in modules.values())
    short = minified(readable)
    assert unpack(pack(short)) == short and len(short) < 0.8 * len(readable)
    for gone in ("Its own", "comment", "renamed", "Never:", "finds them in this file"):
        assert gone in readable and gone not in short
    for kept in ("long_name", "listed:list[Kind]", "def load(long_name):"):
        assert kept in short


def test_annotations_that_a_decorator_may_read_stay() -> None:
    kernel = (
        "import lib\nSIZE: lib.constexpr = 4\n@lib.jit\ndef kernel(x, n: lib.constexpr):\n    '''Doc.'''\n    y = x\n"
    )
    assert "SIZE:lib.constexpr=4" in minified(kernel) and "def kernel(x,n:lib.constexpr):" in minified(kernel)
    plain = "import functools\n@functools.cache\ndef f(x: int) -> int:\n    return x\n"
    assert "def f(x):return x" in minified(plain)


def test_torch_compile_takes_a_packed_function(package: Path, tmp_path: Path) -> None:
    (package / "main.py").write_text(
        "import torch\nclass Layer(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x).sin()\n"
        "def entry(config):\n"
        "    layer, x = Layer(), torch.arange(-2.0, 3.0)\n"
        "    compiled = torch.compile(layer, dynamic=False, fullgraph=True, backend='eager')\n"
        "    print(torch.equal(compiled(x), layer(x)), torch._dynamo.utils.counters['stats']['unique_graphs'])\n"
    )
    (tmp_path / "packed.py").write_bytes(pack(minified(readable_of(package))))
    assert output("-I", "packed.py", cwd=tmp_path) == "True 1\n"


def test_what_cannot_be_bundled(package: Path) -> None:
    (package / "late.py").write_text("TEXT = '''text'''\n")
    with pytest.raises(ProgramError, match=r"pkg/late\.py: holds '''"):
        readable_of(package)
    (package / "late.py").write_text("from pkg.absent import x\n")
    with pytest.raises(ProgramError, match=r"holds no source of pkg\.absent"):
        readable_of(package)


def test_without_the_minifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole run says so before its training."""
    monkeypatch.setitem(sys.modules, "python_minifier", None)
    with pytest.raises(ConfigError, match="pip install python-minifier"):
        minified("x = 1\n")
    assert main(["run", "--preset", "small", "--out", str(tmp_path / "out")]) == 2
    assert "pip install python-minifier" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_files_are_no_programs() -> None:
    packed = pack("print('ä\"\\'\\n')\n")
    damaged = packed.replace(b"b85decode('", b"b85decode('zz")
    for other in (b"", b"print(1)\n", b"\xff\x00", packed[: len(packed) // 2], damaged):
        with pytest.raises(ProgramError):
            unpack(other)


def test_a_packed_program_and_the_one_it_was_made_from(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readable = readable_of(package)
    packed = pack(minified(readable))
    assert is_made_from(packed, readable)
    for old, new in (
        ("'late'", "'later'"),
        ("{'ä': 1}", "{'ä': 2}"),
        ("insert(0,", "insert(1,"),
        ('"pkg/late', '"pkg/l'),
    ):
        assert not is_made_from(packed, readable.replace(old, new, 1))
    with pytest.raises(ProgramError, match="more than texts"):
        is_made_from(packed, readable.replace('"pkg/late.py"', "print()", 1))
    monkeypatch.setattr(program, "_minifier", lambda: "python-minifier 9.9")
    assert is_made_from(packed, readable)
    with pytest.raises(ProgramError, match=r"python-minifier [\d.]+ made it, and python-minifier 9\.9 is installed"):
        is_made_from(packed, readable.replace("'late'", "'later'"))


def test_flat_programs_of_earlier_versions() -> None:
    packed = pack("def f(a):\n b=a*0.5\n return b\nif __name__=='__main__':\n print(f(1))\n")
    readable = (
        'def f(a: int) -> float:\n    """Half."""\n    half = a * 0.5\n    return half\n\n\n'
        'Unused = dict[str, float]\n\nif __name__ == "__main__":\n    print(f(1))\n'
    )
    assert is_made_from(packed, readable)
    assert not is_made_from(packed, readable.replace("0.5", "0.6"))
