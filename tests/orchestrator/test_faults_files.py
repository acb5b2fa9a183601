"""Every file that golf reads again, damaged in every way: each command that meets it answers, or says what is wrong."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from heads import Head
from tiny import OVERRIDES, golf, only_run, write_job
from watchdog import bounded

from golf_core.data.manifest import MANIFEST, Manifest, ShardRecord
from golf_core.data.shards import read_shard, write_shard
from golf_core.errors import RunError
from golf_core.files import sha256
from golf_core.strict_json import load, save
from golf_core.train.snapshot import SNAPSHOT_NAME, latest_snapshot
from orchestrator.cli import main
from orchestrator.folder.resume import resume_point
from orchestrator.run import driver

pytestmark = pytest.mark.ray

SEED = 42
LIMIT_S = 20.0
REACHED = "all was read, and the cluster would be next"
SHARDS = {"train": 60_000, "val": 12_000}
"""Tokens of each split: enough for the tiny job, and read in no time."""


@dataclass(frozen=True)
class Place:
    """A finished run, its job file and its data."""

    folder: Path
    run: Path

    @property
    def job(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path, cluster: Head) -> Place:
    folder = tmp_path_factory.mktemp("finished")
    data = small_data(sample_folder, folder / "data")
    place = {"path": str(data), "tokenizer": str(data / "tokenizer.model")}
    overrides = OVERRIDES | {"train.snapshot_seconds": 3600, "evaluate.max_tokens": 2048}
    mlflow = {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    job = write_job(folder, seeds=[SEED], data=place, overrides=overrides, audit={"positions": 1}, mlflow=mlflow)
    done = golf("run", str(job), "--address", cluster.address, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return Place(folder, only_run(folder))


def small_data(source: Path, folder: Path) -> Path:
    """The beginning of the data in `source`, with a manifest of its own."""
    folder.mkdir()
    shutil.copy(source / "tokenizer.model", folder)
    shards = {}
    for split, tokens in SHARDS.items():
        path = folder / f"fineweb_{split}_000000.bin"
        write_shard(path, read_shard(source / path.name)[:tokens])
        shards[split] = (ShardRecord(path.name, tokens, 1, 2 * tokens, sha256(path)),)
    whole = load(Manifest, source / MANIFEST)
    save(Manifest(**(vars(whole) | shards)), folder / MANIFEST)
    return folder


@pytest.fixture
def here(finished: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The finished run; commands come to the point where they would start Ray, and no further."""

    @contextlib.contextmanager
    def connected(address: str | None, before_local: Callable[[], None]) -> Iterator[bool]:
        before_local()
        raise RunError(REACHED)
        yield True

    monkeypatch.setattr(driver, "connected", connected)
    return finished


# --- damage ----------------------------------------------------------------------------------------


def flipped(at: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        position = int(len(content) * at)
        return content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    **{f"flipped at {at}": flipped(at) for at in (0.1, 0.5, 0.9)},
    "random": lambda content: random.Random(1).randbytes(len(content)),
}


IN_ALL_FILES = [
    pytest.param(kind, marks=() if kind in ("cut", "flipped at 0.5") else pytest.mark.slow) for kind in DAMAGES
]
"""Kinds of damage: one that a file's end shows and one that only its content does; the rest are slow."""


@contextlib.contextmanager
def damaged(path: Path, damage: Callable[[bytes], bytes]) -> Iterator[None]:
    """Inside, the file at `path` is damaged."""
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        yield
    finally:
        path.write_bytes(whole)


# --- commands --------------------------------------------------------------------------------------

Capture = pytest.CaptureFixture[str]


def run_golf(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """`golf` with these words in this process: exit code, standard output and error. Any other exception fails."""
    capsys.readouterr()
    before, sys.argv = sys.argv, ["golf", *words]
    try:
        with bounded(LIMIT_S), pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
    finally:
        sys.argv = before
    code = end.value.code
    return (code if isinstance(code, int) else 0), *capsys.readouterr()


def check_answer(code: int, out: str, err: str, name: str, what: str) -> None:
    """0, or 1 with a reason, or 2 with one sentence that names the file."""
    assert code in (0, 1, 2), what
    assert "Traceback" not in out + err, what
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 2:
        # A table of findings is broken into lines wherever there is no more room.
        lines = err.splitlines() or [re.sub(r"\s+", "", out)]
        assert all(named(name, line) for line in lines), f"{what}: {out}{err}"
        # A job file's mistakes are all told, a line each.
        assert len(errors) <= 1 and (len(lines) == 1 or name.endswith(".yaml")), f"{what}: {err}"
    elif code == 1:
        assert len(errors) == 1 or "failed" in out, f"{what}: {out}{err}"
    assert all(line.isprintable() for line in err.splitlines()), f"{what}: {err!r}"


def named(name: str, line: str) -> bool:
    """Whether a sentence says which file it is about; some go by another name."""
    others = {"ledger.jsonl": "its ledger", "log.jsonl": f"the log of seed {SEED}", MANIFEST: "manifest's"}
    return name in line or (name in others and others[name] in line)


def of_run(place: Place, out: Path | None) -> list[list[str]]:
    """The commands that read a run's folder; packages, which take seconds, only where `out` says whereto."""
    run = str(place.run)
    package = [["package", run, "--out", str(out)]] if out is not None else []
    return [["show", run], ["evaluate", run], *package, ["run", "--resume", run], ["report", run], ["ls", run]]


def of_job(place: Place) -> list[list[str]]:
    """The commands that read a job file and its data."""
    return [["check", str(place.job)], ["run", str(place.job), "--address", "local"], ["evaluate", str(place.run)]]


IN_RUN = (
    "job.json", "ledger.jsonl", "result.json", "seed-42/result.json", "seed-42/data.json", "seed-42/log.jsonl",
    "seed-42/audit.json", "seed-42/breakdown.json", "seed-42/model.golf", "seed-42/train_gpt.py",
    "seed-42/train_gpt_readable.py", "seed-42/checkpoint.pt",
)  # fmt: skip
NOT_PACKAGED = ("job.json", "ledger.jsonl", "seed-42/audit.json", "seed-42/breakdown.json", "seed-42/checkpoint.pt")
NEVER_READ = {"report.html"}
IN_DATA = ("fineweb_train_000000.bin", "fineweb_val_000000.bin", "tokenizer.model", MANIFEST)


def test_undamaged(here: Place, tmp_path: Path, capsys: Capture) -> None:
    """What the commands answer otherwise; and every file that a run leaves is among those that are damaged here.

    A package is made without the files of `NOT_PACKAGED`.
    """
    answers = [run_golf(capsys, *command) for command in of_run(here, tmp_path / "package")]
    assert [code for code, _, _ in answers] == [0, 1, 0, 1, 0, 0]
    assert all(REACHED in answers[i][2] for i in (1, 3))
    with contextlib.ExitStack() as without:
        for name in NOT_PACKAGED:
            without.enter_context(damaged(here.run / name, DAMAGES["empty"]))
        assert run_golf(capsys, "package", str(here.run), "--out", str(tmp_path / "again"))[0] == 0
    answers = [run_golf(capsys, *command) for command in of_job(here)]
    assert [code for code, _, _ in answers] == [0, 1, 1] and all(REACHED in err for _, _, err in answers[1:]), answers
    left = {str(path.relative_to(here.run)) for path in here.run.rglob("*") if path.is_file() and path.name[0] != "."}
    assert left - NEVER_READ == set(IN_RUN), "a run leaves a file that is not damaged here, or lacks one"
    assert {path.name for path in here.data.iterdir()} == set(IN_DATA)


Leave = Callable[[str, str, list[str], str], None]


@pytest.fixture
def leave(record_property: Callable[[str, object], None], here: Place) -> Leave:
    """Leaves a row for the table of faults, of one kind of damage to each file."""

    def row(name: str, damage: str, errors: list[str], after: str) -> None:
        if damage != "cut":
            return
        said = next((line for err in errors for line in err.splitlines() if REACHED not in line), "–")
        said = said.removeprefix("error: ").replace(f"{here.run}/", "").replace(f"{here.folder}/", "")
        record_property("fault", f"{name} is cut in half")
        record_property("said", said.replace(str(here.run), "RUN")[:260])
        record_property("after", after)

    return row


@pytest.mark.parametrize("damage", IN_ALL_FILES)
@pytest.mark.parametrize("name", IN_RUN)
def test_a_file_of_a_run(name: str, damage: str, here: Place, tmp_path: Path, capsys: Capture, leave: Leave) -> None:
    path, errors = here.run / name, []
    with damaged(path, DAMAGES[damage]):
        for command in of_run(here, None if name in NOT_PACKAGED else tmp_path / "package"):
            code, out, err = run_golf(capsys, *command)
            check_answer(code, out, err, path.name, f"{name} {damage}: golf {command[0]}")
            errors.append(err)
    leave(name, damage, errors, "each command answers, or refuses in a sentence")
    assert not list(tmp_path.glob(".package*")), "a package that was begun is left"


@pytest.mark.parametrize("damage", IN_ALL_FILES)
@pytest.mark.parametrize("name", IN_DATA)
def test_a_file_of_the_data(name: str, damage: str, here: Place, capsys: Capture, leave: Leave) -> None:
    """None of it goes unnoticed: the manifest has the checksums, and is one file that is read whole."""
    errors = []
    with damaged(here.data / name, DAMAGES[damage]):
        for command in of_job(here):
            code, out, err = run_golf(capsys, *command)
            errors.append(err)
            check_answer(code, out, err, name, f"{name} {damage}: golf {command[0]}")
            # In the manifest, a flip may fall on what is there for the reader.
            assert code == 2 or (name == MANIFEST and "flipped" in damage), f"{name} {damage}: golf {command[0]}"
    leave(name, damage, errors, "refused before anything runs")


@pytest.mark.parametrize("damage", IN_ALL_FILES)
def test_the_job_file(damage: str, here: Place, capsys: Capture, leave: Leave) -> None:
    errors = []
    with damaged(here.job, DAMAGES[damage]):
        for command in of_job(here):
            code, out, err = run_golf(capsys, *command)
            if not err.startswith("error: ") and "flipped" in damage:
                continue  # another job, as sound as this one
            check_answer(code, out, err, here.job.name, f"job file {damage}: golf {command[0]}")
            errors.append(err)
    leave("the job file", damage, errors, "refused before anything runs")


@pytest.mark.parametrize("name", ["seed-42/model.golf", "seed-42/train_gpt.py", "seed-42/audit.json"])
def test_what_is_damaged_is_never_taken_for_whole(name: str, here: Place) -> None:
    """Whatever the damage, the stage that made the file is among those that are done again."""
    stage = "audit" if "audit" in name else "export"
    for kind, damage in DAMAGES.items():
        with damaged(here.run / name, damage):
            point = resume_point(here.run)
        assert getattr(point.seeds[SEED], stage) is None and point.seeds[SEED].status == "failed", kind
        assert any(f"{stage} is done again: " in note and str(here.run / name) in note for note in point.notes), kind


def test_a_damaged_snapshot_is_none(tmp_path: Path) -> None:
    """The one before it, if whole, takes its place; see also the tests of resumed trainings."""
    content = random.Random(2).randbytes(1000)
    for kind, damage in DAMAGES.items():
        (tmp_path / SNAPSHOT_NAME).write_bytes(damage(content))
        assert latest_snapshot(tmp_path) is None, kind
