"""Folders of runs, of records and of fetched data that hold anything: an answer or a sentence, soon, and no harm."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from claim_builders import CANDIDATE, finished, job
from drawing import examples
from fuzz_tools import answer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from run_builders import STAGE_FILES, interrupted_run
from verify_builders import RUNS, log_lines, write_folder
from watchdog import bounded

from golf_core.results import DataRecord
from golf_core.strict_json import to_dict
from orchestrator.data.plan import RECORD, FetchRecord, read_manifest, record_of, size_of, stated_shards
from orchestrator.folder.event_log import read_events
from orchestrator.folder.ledger import Entry, read_ledger
from orchestrator.folder.results import LEDGER, LOG, RESULT
from orchestrator.folder.resume import ResumePoint, resume_point
from orchestrator.folder.seed_log import plain_log
from orchestrator.verify import logs
from orchestrator.verify.folder import RecordFolder, read_folder
from orchestrator.verify.report import page
from orchestrator.verify.verifier import verify

PROJECT = Path(__file__).parents[2]
fuzz = settings(
    max_examples=examples(80),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HUGE, DEEP = b"9" * 9000, 100_000
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["\0", "\ud800", "a\nb", "\x1b[2J", 10**400, -1, 42, 1337, 2**70, *STAGE_FILES, "finished", "1e5"]),
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner))
EVIL_LINES = (
    b"",
    b"\xff\xfe\x00",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"time": 1, "kind": "note", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"time": 1, "kind": "note", "x": ' + HUGE + b"}",
    b'{"time": 1e999, "kind": "note"}',
    b'{"time": NaN, "kind": "note"}',
    b'{"time": 1' + b"0" * 400 + b', "kind": "note"}',
    b'{"time": 1, "kind": ["note"]}',
    b'{"time": 1, "kind": "a\\nb\\ud800"}',
    b"null",
    b"x" * 1_000_000,
)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    """Inside, the folder and all beside it stay as they are."""

    def shown() -> list[tuple[str, int, int]]:
        found = sorted(folder.parent.rglob("*"))
        return [(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in found]

    before = shown()
    yield
    assert shown() == before


def harms(path: Path) -> Iterator[str]:
    """The file at `path` as everything but a file, one after another; then as it was."""
    kept = path.read_bytes() if path.exists() else b""
    for name, make in {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda p: Path(p).symlink_to("/dev/zero"),
        "circle": lambda p: Path(p).symlink_to(p),
        "nowhere": lambda p: Path(p).symlink_to("/nowhere/at/all"),
        "huge": lambda p: (Path(p).touch(), os.truncate(p, 1 << 40)),
    }.items():
        path.unlink(missing_ok=True)
        make(str(path))
        yield name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(kept)


# --- ledger and log --------------------------------------------------------------------------------


@fuzz
@given(st.lists(values.map(dumped) | st.binary(max_size=60), max_size=6))
@example(list(EVIL_LINES))
def test_any_ledger(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / LEDGER).write_bytes(b"\n".join([b'{"time": 1, "kind": "note"}', *lines]))
    entries = answer(lambda: read_ledger(tmp_path), LEDGER)
    assert entries is not None and entries[0] == Entry(1.0, "note", {})
    for entry in entries:
        assert isinstance(entry.kind, str) and abs(entry.time) < float("inf") and isinstance(entry.fields, dict)


@fuzz
@given(st.lists(values.map(dumped) | st.binary(max_size=60), max_size=6))
def test_any_log(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / LOG).write_bytes(b"\n".join(lines))
    answer(lambda: read_events(tmp_path / LOG), LOG)


@pytest.mark.parametrize("line", EVIL_LINES, ids=range(len(EVIL_LINES)))
def test_evil_lines_of_a_log(tmp_path: Path, line: bytes) -> None:
    """Read and written into a package's log, or named by their line."""
    (tmp_path / LOG).write_bytes(b'{"time": 1, "kind": "note", "message": "x"}\n' + line + b"\n")
    events = answer(lambda: read_events(tmp_path / LOG), f"{LOG}: line 2", f"{LOG}: missing or not text")
    if events is not None:
        seed = finished(42, CANDIDATE[0])
        data = DataRecord("data", "a.model", "0" * 64, 1, 1, {})
        answer(lambda: list(plain_log(job(seeds=[42]), {}, seed, data, events)), "the log of seed 42")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (LEDGER, read_ledger),
        (LOG, lambda folder: read_events(folder / LOG)),
        (RECORD, record_of),
        ("manifest.json", lambda folder: read_manifest(folder / "manifest.json")),
    ],
    ids=["ledger", "log", "record of a fetch", "manifest"],
)
def test_what_is_no_file(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    for harm in harms(tmp_path / name):
        found = answer(lambda: read(tmp_path), name)
        assert not found, (harm, found)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from pathlib import Path
from golf_core.errors import GolfError
from orchestrator.folder.ledger import read_ledger
from orchestrator.folder.event_log import read_events
from orchestrator.folder.resume import resume_point
from orchestrator.data.plan import read_manifest
place = Path(sys.argv[1])
for read in (lambda: read_ledger(place), lambda: read_events(place / "log.jsonl"), lambda: resume_point(place)):
    try:
        print(type(read()).__name__)
    except GolfError as error:
        print(error)
print(read_manifest(place / "result.json"))
"""


def test_files_of_gigabytes_are_not_read(tmp_path: Path) -> None:
    for name in (LEDGER, LOG, RESULT, "job.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(20 << 30)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
    *sentences, manifest = done.stdout.splitlines()
    assert len(sentences) == 3 and all("larger than" in line for line in sentences) and manifest == "None"


# --- an interrupted run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(sound_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_run, tmp_path / "run"))


@contextmanager
def copied(run: Path) -> Iterator[Path]:
    """A copy of its own for each drawn example."""
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(run, Path(scratch) / "run"))


def remains(folder: Path) -> ResumePoint | None:
    """What there is to go on with, sound in itself, or None where it was refused in words; nothing is written."""
    with nothing_written(folder):
        found = answer(lambda: resume_point(folder), str(folder))
    if found is not None:
        assert all(note.isprintable() for note in found.notes)
        assert found.artifacts_of is None or found.artifacts_of.isprintable()
        json.dumps(to_dict(tuple(found.seeds.values())), allow_nan=False).encode()
    return found


kinds = st.sampled_from(["run_started", "seed_started", "stage_finished", "seed_finished", "gang_started", "note"])
fields = st.sampled_from(["seed", "attempt", "stage", "files", "status", "error", "failure", "artifacts_of", "kept"])
entries = st.tuples(kinds, st.sampled_from([42, 1337]), st.dictionaries(fields, values, max_size=4))


@fuzz
@given(st.lists(entries, max_size=5), st.integers(0, 8))
@example([("stage_finished", 1337, {"stage": "lunch"})], 8)
@example([("stage_finished", 42, {"stage": "train", "files": [1]})], 8)
@example([("stage_finished", 42, {"stage": "train", "files": "x"})], 8)
@example([("run_started", 42, {"artifacts_of": ["a\nb"]})], 0)
@example([("seed_finished", 1337, {"attempt": 1, "error": "a\nb\x1b[2J"})], 8)
def test_a_run_with_other_entries(sound_run: Path, found: list[tuple[str, int, dict[str, Any]]], place: int) -> None:
    with copied(sound_run) as run:
        lines = (run / LEDGER).read_bytes().splitlines()
        lines[place:place] = [dumped({"time": 5.0, "kind": kind, "seed": seed, **more}) for kind, seed, more in found]
        (run / LEDGER).write_bytes(b"\n".join(lines) + b"\n")
        remains(run)


@fuzz
@given(
    st.sampled_from(["status", "error", "seed", "train", "export", "evaluate", "audit", "attempts", "started"]), values
)
@example("started", 10**400)
@example("error", "a\nb")
def test_a_run_with_another_result(sound_run: Path, name: str, value: Any) -> None:
    with copied(sound_run) as run:
        path = run / "seed-42" / RESULT
        path.write_bytes(dumped({**json.loads(path.read_text()), name: value}))
        remains(run)


@pytest.mark.parametrize("line", EVIL_LINES, ids=range(len(EVIL_LINES)))
def test_evil_lines_in_each_file_of_a_run(run: Path, line: bytes) -> None:
    for name in ("seed-42/" + RESULT, "seed-1337/" + LOG, LEDGER, "job.json"):
        path = run / name
        kept = path.read_bytes() if path.exists() else b""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kept + line if name == LEDGER else line)
        found = remains(run)
        assert (found is None) == (name == "job.json"), name
        path.write_bytes(kept)


@pytest.mark.parametrize("name", ["job.json", LEDGER, f"seed-42/{RESULT}", "seed-42/model.golf", f"seed-1337/{LOG}"])
def test_files_of_a_run_that_are_no_files(run: Path, name: str) -> None:
    path = run / name
    path.parent.mkdir(exist_ok=True)
    for harm in harms(path):
        if harm == "huge" and name.endswith(".golf"):
            continue  # an artifact is not bounded here, and its checksum takes as long as it is
        found = remains(run)
        assert found is not None or name in ("job.json", LEDGER), harm


# --- record folders --------------------------------------------------------------------------------


def verified(place: Path, seconds: float = 30.0) -> RecordFolder | None:
    """The folder as it was read, with a report and a page that could be printed."""
    with nothing_written(place):
        read = answer(lambda: read_folder(place), place.name, seconds=seconds)
        with bounded(seconds):
            report = verify([place])
            text = page(report, [place], None, Path("page.md"))
            json.dumps(to_dict(report))
    text.encode("utf-8")
    assert "\x1b" not in text and "\x00" not in text and (read is None) == bool(report.unreadable)
    for sentence in report.unreadable:
        assert sentence.isprintable() and place.name in sentence
    return read


@pytest.fixture(scope="module")
def sound_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("records") / "record")


LOG_PIECES = (
    *("val_bpb:", "val_loss=", "seed:", "step:", "1.1", "1e999", "nan", "-1", "/", "final_int8 ", "train_time:"),
    *("ms", "bytes", " in ", "s", "XSA:last_4", "[1/2]", "{", "}", '"', "±", " ", "\n", "\r", "\x00", "9" * 400),
    *("=" * 80, "import x\n", "\ud83d", "\xff", "\x85", "\u2028", "\x1b[", "| seed | bpb |\n|---|---|\n| 42 | 1.1 |\n"),
    *("eval_only: seed=3 in 5s\n", "step:3/9 val_loss:nan val_bpb:inf\n", "x val_bpb:1e308 val_loss:-1e308\n"),
)  # fmt: skip
log_pieces = st.sampled_from([*LOG_PIECES, *(line + "\n" for line in log_lines(RUNS[0]))])


@fuzz
@given(st.lists(log_pieces, max_size=40).map("".join), st.lists(log_pieces, max_size=40).map("".join))
def test_any_log_and_readme(sound_record: Path, log: str, readme: str) -> None:
    (sound_record / "train_seed7.log").write_bytes(log.encode("utf-8", "surrogatepass"))
    (sound_record / "README.md").write_bytes(readme.encode("utf-16-le", "surrogatepass" if log else "replace"))
    verified(sound_record)
    (sound_record / "README.md").write_bytes(readme.encode("utf-8", "surrogatepass"))
    read = verified(sound_record)
    for run in read.runs if read else ():
        figures = run.figures.values()
        assert all(math.isfinite(figure.value) and figure.place.line >= 1 for figure in figures)


@fuzz
@given(st.binary(max_size=300), st.sampled_from(["submission.json", "README.md", "train_seed42.log", "train_gpt.py"]))
def test_any_bytes_in_a_record(tmp_path: Path, content: bytes, name: str) -> None:
    shutil.rmtree(tmp_path / "record", ignore_errors=True)
    place = write_folder(tmp_path / "record")
    (place / name).write_bytes(content)
    verified(place)


@pytest.mark.parametrize("ending", ["\n", "\n=\n", "\nx: 1\n"], ids=["empty", "short", "words"])
def test_millions_of_lines_are_no_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """What stands before and after them is read, with its line; and the rest is said to be left out."""
    monkeypatch.setattr(logs, "MOST_LINES", 1_000)
    monkeypatch.setattr(logs, "TAIL_BYTES", 3_000)
    path = tmp_path / "train_seed42.log"
    lines = log_lines(RUNS[0])
    path.write_text("\n".join(lines[:-8]) + ending * 40_000 + "\n".join(lines[-8:]) + "\n")
    log = logs.read_log(path, path.name)
    assert any("only the first, and the end" in note for note in log.notes)
    assert log.lines == len(path.read_text().splitlines()) and log.runs[0].losses_cut
    score = log.runs[0].stages[-1].val_bpb
    assert score is not None and score.value == RUNS[0].bpb
    assert str(RUNS[0].bpb) in path.read_text().splitlines()[score.place.line - 1] and score.place.line > 39_000


def test_two_hundred_megabytes_of_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "train_seed42.log"
    path.write_bytes(b"seed:42\n" + b"\n" * 200_000_000)
    with bounded(30):
        log = logs.read_log(path, path.name)
    path.unlink()
    assert log.lines == 200_000_001


def test_a_record_of_everything_but_files(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "record")
    for name in ("submission.json", "README.md", "train_seed42.log", "train_gpt.py"):
        for harm in harms(place / name):
            with bounded(60):
                assert verify([place]).folders, (name, harm)


def test_folders_within_folders(tmp_path: Path) -> None:
    place = inner = write_folder(tmp_path / "record")
    for _ in range(200):
        inner = inner / "logs"
        inner.mkdir()
    (place / "logs" / "train_seed7.log").write_text("\n".join(log_lines(RUNS[0])))
    (inner / "train_seed8.log").write_text("\n".join(log_lines(RUNS[1])))
    read = verified(place)
    assert read is not None and "logs/train_seed7.log" in read.sizes and len(read.logs) == len(RUNS) + 1


# --- fetched data ----------------------------------------------------------------------------------

FETCHED = FetchRecord("sp1024", 1, "a/b", "", "main", "0" * 40, "a.model", {"a.bin": 1})


@fuzz
@given(st.sampled_from(list(to_dict(FETCHED))), values)
@example("sizes", {"../a": 1})
@example("sizes", {"/etc/passwd": 1})
@example("sizes", {"a\0b": 1})
@example("sizes", {"": 1})
@example("tokenizer", "../../a.model")
@example("tokenizer", "..")
@example("sizes", {"a.bin": 10**400})
@example("train_shards", 10**400)
def test_any_record_of_a_fetch(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / RECORD).write_bytes(dumped({**to_dict(FETCHED), name: value}))
    with bounded():
        record = record_of(tmp_path)
    for found in (record.tokenizer, *record.sizes) if record else ():
        assert (tmp_path / found).parent == tmp_path and (tmp_path / found).name not in ("", "..")
        size_of(tmp_path / found)


@pytest.mark.parametrize("content", [*EVIL_LINES, b'{"variant": ' + HUGE + b"}"], ids=range(len(EVIL_LINES) + 1))
def test_records_and_manifests_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with bounded():
        assert record_of(tmp_path) is None
        stated_shards(read_manifest(tmp_path / RECORD), "x")
