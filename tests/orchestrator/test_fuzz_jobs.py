"""Job files of any kind: a job, or a sentence for each mistake; nothing hangs, runs or fills the memory."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from drawing import examples
from fuzz_tools import answer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from watchdog import HungError, bounded

from golf_core.errors import ConfigError
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.results import JOB
from orchestrator.job.document import MAX_VALUES, inside
from orchestrator.job.load import Job, load_job

PROJECT = Path(__file__).parents[2]
SMOKE = PROJECT / "jobs" / "smoke.yaml"
TEXT = SMOKE.read_text()
LEAST = "name: x\npreset: small\nseeds: [1]\ndata: sample\n"
MANY = 200
"""Mistakes that may be told of one file, a line each."""

fuzz = settings(
    max_examples=examples(120),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def as_bytes(content: bytes | str) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def read(path: Path, content: bytes | str) -> Job | None:
    """The job in a file of this content, or None where it was refused in words."""
    path.write_bytes(as_bytes(content))
    return same_again(answer(lambda: load_job(path), str(path), lines=MANY))


def same_again(job: Job | None) -> Job | None:
    """A job after it was written down and read back, which leaves it as it is."""
    if job is not None:
        assert Job.from_dict(json.loads(json.dumps(job.to_dict(), allow_nan=False))) == job
        assert len(job.digest) == 64
    return job


# --- random and mutated ----------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        "<<: ", "*a", "&a ", "- ", "? ", ": ", "{", "}", "[", "]", "!!", "!!set ", "!!binary ", "!!int ", "!!float ",
        "!!python/name:os.system ", "!<tag:yaml.org,2002:map> ", "!!omap ", "!!pairs ", "!!timestamp ", "!!str ",
        "---\n", "...\n", "%YAML 1.2\n", "%TAG ! tag:x,2000:\n", "|\n", ">-\n", "'", '"', '"\\ud800"', '"\\0"', "\\x",
        "\x00", "\x85", "\u2028", "\ufeff", "\t", "\r", "\n  ", " #", ".nan", "-.inf", "1e999", "0x" + "f" * 40,
        "1:30", "12:30:45.5", "2024-13-45", "9" * 30, "9" * 5000, "=", "~", "null", "yes", "0o7", "1_0", "é", "😀",
        "name: x\n", "seeds: [1, 1]\n", "overrides: {train.iterations: 0}\n", "data: {path: a}\n", "baseline: 3\n",
    ]
)  # fmt: skip


rows_of_signs = st.lists(pieces, max_size=25).map("".join)


@st.composite
def sound_jobs_with_changes(draw: st.DrawFn) -> bytes:
    """The job of the smoke test with up to four parts replaced, or one byte."""
    content = TEXT.encode()
    other_byte = st.tuples(st.just(1), st.binary(min_size=1, max_size=1))
    other_text = st.tuples(st.integers(0, 12), (pieces | st.text(max_size=4)).map(as_bytes))
    for length, new in draw(other_byte.map(lambda one: [one]) | st.lists(other_text, min_size=1, max_size=4)):
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + new + content[place + length :]
    return content


@settings(fuzz, max_examples=examples(360))
@given(sound_jobs_with_changes() | rows_of_signs | st.binary(max_size=400))
@example("1:" * 3 + "1")
@example("!!map [a, b]")
@example("!!int a")
@example("!!float ''")
@example("? !!python/tuple [a]\n: b")
def test_any_content(tmp_path: Path, content: bytes | str) -> None:
    read(tmp_path / "job.yaml", content)


# --- known evils -----------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
BOMBS = {
    "billion laughs": (LAUGHS, "aliases (*name) are not read here"),
    "merged laughs": ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "aliases (*name) are not read here"),
    "a circle": ("&a [*a]", "aliases (*name) are not read here"),
    "deep lists": ("[" * 400_000, "nested too deeply"),
    "deep mappings": ("{a: " * 200_000, "nested too deeply"),
    "deep blocks": ("- " * 400_000 + "x", "nested too deeply"),
    "deep keys": ("? " * 400_000 + "x", "nested too deeply"),
    "base 60": ("seeds: " + "1:" + ":".join(["1"] * 450_000), "YAML reads '1:1:1"),
    "a huge hexadecimal": ("0x" + "f" * 900_000, "holds a whole number of more than 63 bits"),
    "a huge key": ("? 0x" + "f" * 900_000 + "\n: 1", "a whole number of more than 63 bits: is not a field's name"),
    "a huge decimal": ("name: " + "9" * 900_000, "holds a value that YAML cannot read"),
    "many seeds": ("seeds: [" + "1," * 450_000 + "1]", "more than 5,000 values"),
    "many documents": ("---\n" * 200_000, "not YAML"),
    "many keys": ("".join(f"k{n}: 1\n" for n in range(90_000)), "more than 5,000 values"),
    "empty lines": ("\n" * 900_000, "holds nothing"),
    "a list": ("- 1", "holds [1], not a mapping of fields"),
    "a program": ("a: !!python/object/apply:os.system [x]", "line 1: not YAML (could not determine a constructor"),
    "one long word": ("x" * 900_000, "not a mapping of fields"),
    "one long key": ("x" * 900_000 + ": 1", "not YAML"),
    "one long text": ('name: "' + "x\\n" * 300_000 + '"', "name: got"),
    "a long tag": ("!" + "x" * 900_000 + " y", "not YAML"),
    "a zero in a path": (LEAST + 'output: "a\\0b"\n', "output: got 'a\\x00b', with a character that no file"),
    "half a pair": (LEAST + 'output: "a\\ud800b"\n', "output: got 'a\\ud800b', with a character that no file"),
    "not a number": (LEAST + "cost: {per_node_hour: .nan}\n", "cost.per_node_hour: got nan; give a finite number"),
    "a zero in front": (
        LEAST + "budgets: {artifact_bytes: 016_000_000}\n",
        "reads '016_000_000' as a number in base 8",
    ),
    "time of day": (LEAST + "limits: {start_seconds: 12:30}\n", "YAML reads '12:30' as a number in base 60"),
    "twice": (LEAST + "name: other\n", "the field 'name' is given twice"),
    "merge of a word": (LEAST + "<<: word\n", "not YAML"),
}
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from pathlib import Path
from golf_core.errors import ConfigError
from orchestrator.job.load import load_job
for name in sys.argv[1:]:
    try:
        print(name, "read", load_job(Path(name)).name)
    except ConfigError as error:
        assert all(line.startswith(name) for line in str(error).split("\\n")), error
        print(str(error).split("\\n")[0][:300])
"""


def test_bombs_are_told_from_jobs_in_little_memory(tmp_path: Path) -> None:
    """All in one process of 2 GiB, each in a few seconds."""
    for number, (content, _) in enumerate(BOMBS.values()):
        (tmp_path / f"{number:02}.yaml").write_text(content)
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *names], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for (bomb, (_, expected)), line in zip(BOMBS.items(), done.stdout.splitlines(), strict=True):
        assert expected in line, (bomb, line)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/object/apply:subprocess.Popen [['touch', '{}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:pathlib.Path {{}}",
    ],
)
@pytest.mark.parametrize("place", ["{}", "name: {}", "overrides: {{train: [{}]}}", "? {}\n: x"])
def test_no_code_is_run(tmp_path: Path, tag: str, place: str) -> None:
    marker = tmp_path / "ran"
    assert read(tmp_path / "job.yaml", place.format(tag.format(marker))) is None
    assert not marker.exists()


def test_merged_keys(tmp_path: Path) -> None:
    job = read(tmp_path / "job.yaml", LEAST + "<<: {name: other, output: elsewhere}\n")
    assert job is not None and (job.name, job.output) == ("x", "elsewhere")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(1 << 40)
    for path in [*tmp_path.iterdir(), tmp_path / "a\0b", tmp_path / ("x" * 300), tmp_path / "none"]:
        with pytest.raises(ConfigError) as caught, bounded():
            load_job(path)
        assert len(str(caught.value).split("\n")) == 1 and path.name[:20] in str(caught.value)


JOB_OF_RUN = load_job(SMOKE).to_dict()


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["\0", "\ud800", "a\nb", "\x1b[2J", 10**400, -1, 2**70, "sample", 1e308, -0.0, 5e-324])
)  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner))


def names_in(value: Any, name: str = "") -> list[str]:
    """The dotted name of every value in nested mappings."""
    found = [name] if name else []
    for key, item in value.items() if isinstance(value, dict) else ():
        found += names_in(item, inside(name, key))
    return found


# --- changes, and documents of any fields ----------------------------------------------------------

FIELDS = ["overrides.nonsense", *(re.sub("^config", "overrides", name) for name in names_in(JOB_OF_RUN))]
of_yaml = st.binary(max_size=4) | st.dates() | st.dictionaries(st.integers(), leaves, max_size=3)


@fuzz
@given(st.dictionaries(st.sampled_from(FIELDS), values | of_yaml, max_size=4))
@example({"overrides.model.num_heads": 0})
@example({"overrides.train.seq_len": 0})
@example({"overrides.evaluate.seq_len": 0})
@example({"overrides.model.model_dim": 10**400})
def test_any_change_is_taken_or_explained(changes: dict[str, Any]) -> None:
    same_again(answer(lambda: load_job(SMOKE, changes), "--set", str(SMOKE), lines=MANY))


@fuzz
@given(st.dictionaries(st.sampled_from([name.split(".")[0] for name in FIELDS]), values | of_yaml, max_size=12))
def test_any_fields_are_taken_or_explained(tmp_path: Path, document: dict[str, Any]) -> None:
    read(tmp_path / "job.yaml", yaml.safe_dump(document))


# --- the job of a run's folder ---------------------------------------------------------------------


def read_run(folder: Path, content: str | bytes) -> Job | None:
    (folder / JOB).write_bytes(as_bytes(content))
    return answer(lambda: job_of_run(folder, {}), str(folder / JOB), lines=MANY)


@fuzz
@given(st.sampled_from(names_in(JOB_OF_RUN)), values)
@example("config.train.muon_lr", 10**400)
@example("seeds", [10**400])
@example("output", "a\0b")
@example("name", {"a\nb": {}})
def test_one_value_of_a_recorded_job(tmp_path: Path, name: str, value: Any) -> None:
    values = json.loads(json.dumps(JOB_OF_RUN))
    *parents, last = name.split(".")
    functools.reduce(dict.__getitem__, parents, values)[last] = value
    read_run(tmp_path, json.dumps(values))


@fuzz
@given(values)
def test_any_json_for_a_recorded_job(tmp_path: Path, value: Any) -> None:
    assert read_run(tmp_path, json.dumps(value)) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"1" * 9000),
        *(b'{"name": ' + b"1" * 9000 + b"}", b'{"name": NaN}', b'{"name": 1e999}', b'{"\\ud800\\n": 1}'),
        *(b'{"seeds": [' + b"1," * 400_000 + b"1]}", b"x" * 2_000_000),
    ],
    ids=range(12),
)
def test_recorded_jobs_that_are_none(tmp_path: Path, content: bytes) -> None:
    assert read_run(tmp_path, content) is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_recorded_jobs_that_are_no_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / JOB)
    assert answer(lambda: job_of_run(tmp_path, {}), JOB) is None


def test_the_watchdog_bites() -> None:
    with pytest.raises(HungError), bounded(0.2):
        while True:
            pass


def test_real_jobs_are_far_from_the_limit() -> None:
    for path in sorted((PROJECT / "jobs").glob("*.yaml")):
        assert sum(isinstance(event, yaml.NodeEvent) for event in yaml.parse(path.read_text())) < MAX_VALUES / 10
