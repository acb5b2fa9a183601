"""Snapshots: a training that was cut short goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import examples
from golden_case import small_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranks import on_ranks

from golf_core.config import GolfConfig, TrainConfig
from golf_core.data.shards import TokenStream, write_shard
from golf_core.distributed import Ranks, single
from golf_core.errors import ArtifactError, ConfigError, DataError, UserError
from golf_core.events import Event
from golf_core.results import TrainResult
from golf_core.stages import DataPaths, train_stage
from golf_core.strict_json import from_dict, load, save, to_dict
from golf_core.train.dry_run import dry_run
from golf_core.train.loop import Trainer
from golf_core.train.optimizers import WeightAverage
from golf_core.train.snapshot import (
    DIGEST_BYTES,
    LENGTH_BYTES,
    MAGIC,
    PREVIOUS_NAME,
    SNAPSHOT_NAME,
    Snapshots,
    is_whole,
    latest_snapshot,
    parse,
)
from golf_core.train.state import TrainState

CPU = torch.device("cpu")
EVERY_STEP = 1e-9


class KilledError(Exception):
    """The end of a process."""


class Mortal(Snapshots):
    """Snapshots of a process that ends after the one at step `last`."""

    last = 4

    def keep(self, state: TrainState, stream: TokenStream) -> str:
        said = super().keep(state, stream)
        if state.progress.step == self.last:
            raise KilledError
        return said


def config(**changes: Any) -> GolfConfig:
    """Late QAT begins at step 4 of 8, the batch is cut into spans for two ranks."""
    case = small_case()
    train = replace(
        case.train_config,
        batch_tokens=512,
        micro_batches=2,
        iterations=8,
        warmup_steps=2,
        warmdown_steps=6,
        qat_threshold=0.7,
        muon_dtype="float32",
        log_every=1,
        val_every=3,
        snapshot_seconds=EVERY_STEP,
    )
    return GolfConfig(
        model=case.model_config, train=replace(train, **changes), evaluate=case.eval_config(repeat_tail=False)
    )


def stream_of(folder: Path, tokens: int = 20_000) -> TokenStream:
    path = folder / f"fineweb_train_{tokens:06d}.bin"
    if not path.exists():
        write_shard(path, small_case().tensors["tokens"].astype(np.uint16)[:tokens])
    return TokenStream([path])


class Run:
    """One process's part of a training, and what it saw."""

    def __init__(
        self,
        folder: Path,
        ranks: Ranks | None = None,
        resume: Path | None = None,
        kind: type[Snapshots] | None = Snapshots,
        seed: int = 3,
        data: int = 20_000,
        **changes: Any,
    ) -> None:
        ranks = ranks or single(CPU)
        self.events: list[Event] = []
        changed = config(**changes)
        keeper = kind(folder, changed, ranks, seed, resume) if kind is not None else None
        stream = stream_of(folder, data)
        self._trainer = Trainer(changed, stream, small_case().text, ranks, seed, self.events.append, keeper)

    def finish(self) -> TrainResult:
        return self._trainer.run()

    def die(self) -> Run:
        with pytest.raises(KilledError):
            self._trainer.run()
        return self

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self._trainer.model.state_dict().items()}

    @property
    def steps(self) -> list[tuple[int, float]]:
        return [(e.fields["step"], e.fields["loss"]) for e in self.events if e.kind == "train_step"]

    @property
    def validations(self) -> list[tuple[int, float]]:
        return [(e.fields["step"], e.fields["val_loss"]) for e in self.events if e.kind == "validation"]

    @property
    def notes(self) -> list[str]:
        return [e.fields["message"] for e in self.events if e.kind == "note"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# --- exactness ---


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, TrainResult]:
    """The training in a single piece."""
    run = Run(tmp_path_factory.mktemp("straight"), kind=None)
    return run, run.finish()


@pytest.mark.parametrize("last", [1, 4, 7])
def test_resumed_training_is_the_straight_one_bit_for_bit(
    last: int, straight: tuple[Run, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before, at and after the onset of late QAT; weights, losses and validation are those of a single piece."""
    whole, expected = straight
    monkeypatch.setattr(Mortal, "last", last)
    first = Run(tmp_path, kind=Mortal).die()
    second = Run(tmp_path, resume=tmp_path / SNAPSHOT_NAME)
    result = second.finish()
    assert expected.qat_onset_step is not None and 1 < expected.qat_onset_step < 7
    assert_same(second.weights, whole.weights)
    assert first.steps + second.steps == whole.steps
    kept = [e.fields["snapshot_step"] for e in second.events if "snapshot_step" in e.fields]
    assert kept == list(range(last + 1, 8)) and all(f"snapshot at step {n}," in " ".join(second.notes) for n in kept)
    assert [step for step, _ in second.steps] == list(range(last + 1, 9))
    assert first.validations + second.validations == whole.validations
    for name in ("steps", "train_loss", "val_loss", "val_bpb", "qat_onset_step"):
        assert getattr(result, name) == getattr(expected, name), name
    assert expected.resumed_at_steps == () and result.resumed_at_steps == (last,)
    assert any(note.startswith(f"resumed at step {last}, ") and "s on the clock" in note for note in second.notes)


def test_resumed_again_and_again(
    straight: tuple[Run, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = None
    for last in (2, 5, 6):
        monkeypatch.setattr(Mortal, "last", last)
        Run(tmp_path, kind=Mortal, resume=resume).die()
        resume = latest_snapshot(tmp_path)
    end = Run(tmp_path, resume=resume)
    assert end.finish().resumed_at_steps == (2, 5, 6)
    assert_same(end.weights, straight[0].weights)


def test_random_state_and_validation_time_are_carried_on(tmp_path: Path) -> None:
    class Drawing(Mortal):
        def keep(self, state: TrainState, stream: TokenStream) -> str:
            try:
                return super().keep(state, stream)
            finally:
                self.drawn = torch.rand(3)

    first = Run(tmp_path, kind=Drawing).die()
    torch.manual_seed(99)
    second = Run(tmp_path, kind=None)
    kept = Snapshots(tmp_path, config(), single(CPU), 3, tmp_path / SNAPSHOT_NAME).kept(stream_of(tmp_path))
    assert kept is not None
    second._trainer._resume(kept, WeightAverage(second._trainer.model, 0.5))
    assert torch.equal(torch.rand(3), first._trainer._keeper.drawn)  # type: ignore[union-attr]
    assert second._trainer._validation_s == kept.progress.validation_s > 0


def on_two(ranks: Ranks, folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[Any], list[Any], list[str]]:
    """Straight, then cut and resumed with the file given to rank 0 alone; and what is refused."""
    straight = Run(folder, ranks, kind=None)
    straight.finish()
    own = folder / f"rank-{ranks.rank}"
    own.mkdir()
    (own / "fineweb_train_020000.bin").symlink_to(folder / "fineweb_train_020000.bin")
    first = Run(own, ranks, kind=Mortal).die()
    resume = own / SNAPSHOT_NAME if ranks.is_first else None
    second = Run(own, ranks, resume=resume)
    assert second.finish().resumed_at_steps == (4,)
    assert (own / SNAPSHOT_NAME).exists() == ranks.is_first
    plain = [{n: v.numpy() for n, v in run.weights.items()} for run in (straight, second)]
    return plain[0], plain[1], straight.steps, first.steps + second.steps, refused_on_two(ranks, folder)


def test_two_ranks_resume_bit_for_bit(tmp_path: Path) -> None:
    stream_of(tmp_path)
    results = on_ranks(2, on_two, tmp_path)
    for straight, resumed, steps, pieced, _ in results:
        assert steps == pieced
        for name, value in straight.items():
            np.testing.assert_array_equal(resumed[name], value, err_msg=name)
            np.testing.assert_array_equal(resumed[name], results[0][0][name], err_msg=name)
    assert len(results[0][2]) == 8
    # Neither rank waits for one that has ended.
    (missing, foreign), (missing_too, foreign_too) = results[0][4], results[1][4]
    assert "missing: cannot be read" in missing and missing_too == "rank 0 cannot read the snapshot"
    assert "not a snapshot" in foreign and "not a snapshot" in foreign_too


def refused_on_two(ranks: Ranks, folder: Path) -> list[str]:
    """What each rank says of a file that is missing, and of one that is no snapshot."""
    said = []
    for path in (folder / "missing", folder / "fineweb_train_020000.bin"):
        with pytest.raises(UserError) as caught:
            Run(folder, ranks, resume=path if ranks.is_first else None).finish()
        said.append(str(caught.value))
    return said


# --- the clock ---


class FakeTime:
    """A clock that moves by `tick` seconds with every look at it."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


def test_clock_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts together keep the one budget, and the rate follows the clock of both."""
    fake = FakeTime(0.01)
    monkeypatch.setattr("golf_core.train.state.time", fake)
    monkeypatch.setattr(Mortal, "last", 25)
    limits: dict[str, Any] = {"iterations": 100_000, "wallclock_seconds": 2.0, "warmdown_steps": 30, "val_every": 0}
    first = Run(tmp_path, kind=Mortal, **limits).die()
    snapshot, _ = parse(contents(tmp_path / SNAPSHOT_NAME), "here")
    fake.now += 1e6  # the time between the two parts does not count
    second = Run(tmp_path, resume=tmp_path / SNAPSHOT_NAME, **limits)
    result = second.finish()
    assert 0 < snapshot.progress.elapsed_s < 1.8
    assert 1.8 < result.train_seconds < 2.0 and result.steps > 30
    assert result.ms_per_step == pytest.approx(1e3 * result.train_seconds / result.steps)
    fields = [e.fields for e in (*first.events, *second.events) if e.kind == "train_step"]
    assert [f["step"] for f in fields] == list(range(1, result.steps + 1))
    elapsed = [f["elapsed_s"] for f in fields]
    assert elapsed == sorted(elapsed)
    assert fields[25]["elapsed_s"] == pytest.approx(snapshot.progress.elapsed_s, abs=0.05)
    factors = [f["lr_factor"] for f in fields]
    assert factors[0] == 1.0 and factors == sorted(factors, reverse=True) and factors[-1] < 0.2


def test_nothing_is_left_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is resumed at the end of its clock takes no further step, and has a result."""
    fake = FakeTime(0.01)
    monkeypatch.setattr("golf_core.train.state.time", fake)
    limits: dict[str, Any] = {"iterations": 100, "wallclock_seconds": 0.4, "val_every": 0, "warmdown_steps": 0}
    whole = Run(tmp_path, **limits).finish()
    resumed = Run(tmp_path, resume=tmp_path / SNAPSHOT_NAME, **limits).finish()
    assert whole.steps - 1 <= resumed.steps <= whole.steps and resumed.train_seconds < 0.4
    assert resumed.resumed_at_steps[0] >= whole.steps - 1


def test_writing_is_off_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(0.0)
    monkeypatch.setattr("golf_core.train.state.time", fake)

    class Slow(Snapshots):
        def keep(self, state: TrainState, stream: TokenStream) -> str:
            fake.now += 1000.0
            return super().keep(state, stream)

    fake.tick = 0.01
    result = Run(tmp_path, kind=Slow).finish()
    assert result.train_seconds < 10.0


# --- when ---


def test_no_snapshots_by_default(tmp_path: Path) -> None:
    assert TrainConfig().snapshot_seconds is None
    run = Run(tmp_path, snapshot_seconds=None)
    run.finish()
    assert list(tmp_path.glob("*snapshot*")) == [] and not any("snapshot" in note for note in run.notes)
    with pytest.raises(ConfigError, match=r"train\.snapshot_seconds: must be positive"):
        TrainConfig(snapshot_seconds=0.0)


def test_as_often_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr("golf_core.train.snapshot.time", clock)
    keeper = Snapshots(tmp_path, config(snapshot_seconds=10.0), single(CPU), 3)
    clock.now = 500.0  # warming up
    assert not keeper.due()
    clock.now = 509.0
    assert not keeper.due()
    clock.now = 510.0
    assert keeper.due()


def test_rehearsal_writes_none_and_says_nothing(
    sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written: list[str] = []

    def no_export(*_: Any) -> Any:
        raise ArtifactError("not tried here")

    monkeypatch.setattr("golf_core.train.dry_run.export", no_export)
    monkeypatch.setattr(Snapshots, "keep", lambda *_: written.append("snapshot") or "")
    case = config(seq_len=64)
    case = replace(
        case,
        model=replace(case.model, vocab_size=1024),
        evaluate=replace(case.evaluate, seq_len=64, chunk_tokens=128, max_tokens=256, stride=32),
    )
    dry_run(case, DataPaths(sample_folder, sample_folder / "tokenizer.model"), single(CPU), steps=8)
    assert written == [] and list(tmp_path.iterdir()) == []


def test_stage_resumes_and_records_it(sample_folder: Path, tmp_path: Path) -> None:
    case = config()
    case = replace(case, model=replace(case.model, vocab_size=1024), evaluate=replace(case.evaluate, max_tokens=256))
    paths = DataPaths(sample_folder, sample_folder / "tokenizer.model")
    ranks, events = single(CPU), list[Event]()
    with pytest.raises(KilledError):
        train_stage(case, paths, ranks, 1, tmp_path, keeper=Mortal(tmp_path, case, ranks, 1))
    again = Snapshots(tmp_path, case, ranks, 1, latest_snapshot(tmp_path))
    result = train_stage(case, paths, ranks, 1, tmp_path, events.append, again)
    assert load(TrainResult, tmp_path / "train.json") == result and result.resumed_at_steps == (4,)
    events.clear()
    train_stage(replace(case, train=replace(case.train, iterations=1)), paths, ranks, 1, tmp_path, events.append)
    assert "no snapshots are written here" in events[0].fields["message"]


def test_results_of_before_have_no_such_field() -> None:
    values = {"seed": 1, "world_size": 1, "device": "cpu", "parameters": 1, "steps": 1, "train_loss": 1.0}
    values |= dict.fromkeys(("train_seconds", "warmup_seconds", "validation_seconds", "ms_per_step"), 1.0)
    values |= dict.fromkeys(("tokens_per_second", "val_loss", "val_bpb", "peak_memory_mib"), 1.0)
    assert from_dict(TrainResult, {**values, "qat_onset_step": None}).resumed_at_steps == ()


# --- two generations ---


def test_two_generations_are_kept(straight: tuple[Run, TrainResult], tmp_path: Path) -> None:
    Run(tmp_path, kind=Mortal).die()
    steps = [parse(contents(tmp_path / name), name)[0].progress.step for name in (SNAPSHOT_NAME, PREVIOUS_NAME)]
    assert steps == [4, 3]
    assert {p.name for p in tmp_path.glob("*snapshot*")} == {SNAPSHOT_NAME, PREVIOUS_NAME}
    (tmp_path / SNAPSHOT_NAME).write_bytes(b"")
    assert latest_snapshot(tmp_path) == tmp_path / PREVIOUS_NAME
    resumed = Run(tmp_path, resume=latest_snapshot(tmp_path))
    assert resumed.finish().resumed_at_steps == (3,)
    assert_same(resumed.weights, straight[0].weights)


@pytest.mark.parametrize("cut", ["writing", "first rename", "second rename"])
def test_cut_short_while_writing_loses_no_more_than_one(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path, kind=Mortal).die()
    calls = 0
    replace_path = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal calls
        if SNAPSHOT_NAME in str(self) or PREVIOUS_NAME in str(target):
            calls += 1
        # The atomic writer's own rename comes first.
        if calls == {"writing": 1, "first rename": 2, "second rename": 3}[cut]:
            raise KilledError
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KilledError):
        Run(tmp_path, resume=tmp_path / SNAPSHOT_NAME).finish()
    monkeypatch.undo()
    latest = latest_snapshot(tmp_path)
    assert latest is not None and parse(contents(latest), "here")[0].progress.step == 4
    assert Run(tmp_path, resume=latest).finish().steps == 8


def test_full_disk_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("golf_core.train.snapshot.atomic_writer", full)
    run = Run(tmp_path)
    assert run.finish().steps == 8
    assert any(note.startswith("no snapshot at step 1: ") and "No space left" in note for note in run.notes)


# --- what is refused ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Run(folder, kind=Mortal).die()
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"table_lr": 0.5}, r"train\.table_lr 0\.035, where this training has 0\.5; resume with the same"),
        ({"iterations": 9}, r"train\.iterations 8, where this training has 9"),
        ({"seed": 4}, r"seed 3, where this training has 4"),
        ({"data": 19_000}, None),
        ({"data": 2_100}, "other training data; resume with the same data"),
        ({"snapshot_seconds": 5.0}, None),
    ],
)
def test_only_the_same_training_goes_on(changes: dict[str, Any], sentence: str | None, whole: Path) -> None:
    run = Run(whole, resume=whole / PREVIOUS_NAME, kind=ReadOnly, **changes)
    if sentence is None:
        assert run.finish().steps == 8
        return
    with pytest.raises(ConfigError, match=sentence) as caught:
        run.finish()
    assert str(whole / PREVIOUS_NAME) in str(caught.value)
    assert run.events == []  # before the warm-up


class ReadOnly(Snapshots):
    """Leaves the files that the tests share as they are."""

    def due(self) -> bool:
        return False


def test_another_world_size_is_refused(whole: Path) -> None:
    keeper = Snapshots(whole, config(), replace(single(CPU), world_size=1), 3, whole / SNAPSHOT_NAME)
    header, _ = parse(contents(whole / SNAPSHOT_NAME), "here")
    with pytest.raises(ConfigError, match="world_size 8, where this training has 1"):
        keeper._check(replace(header, world_size=8), "here")
    with pytest.raises(ConfigError, match="device cuda, where this training has cpu"):
        keeper._check(replace(header, device="cuda"), "here")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: b"", "not a snapshot"),
        (lambda b: b"PK" + b[2:], "not a snapshot"),
        (lambda b: b[:-1], "its digest is not that"),
        (lambda b: b[: len(b) // 2], "its digest is not that"),
        (lambda b: b + b"\0", "its digest is not that"),
        (lambda b: b[:70_000] + bytes([b[70_000] ^ 1]) + b[70_001:], "its digest is not that"),
        (lambda b: b + bytes(1 << 23), "but a snapshot of this model has at most"),
    ],
)
def test_damaged_files_are_refused(damage: Any, sentence: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / SNAPSHOT_NAME
    path.write_bytes(damage((whole / SNAPSHOT_NAME).read_bytes()))
    assert not is_whole(path)
    with pytest.raises(DataError, match=sentence) as caught:
        Run(tmp_path, resume=path).finish()
    assert str(path) in str(caught.value) and "remove it" in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file"):
        Run(tmp_path, resume=tmp_path / "nowhere").finish()
    assert latest_snapshot(tmp_path) is None


def contents(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def forged(header: dict[str, Any] | bytes, data: bytes) -> torch.Tensor:
    """A file whose digest is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    body = MAGIC + len(text).to_bytes(LENGTH_BYTES, "little") + text + data
    return torch.frombuffer(bytearray(body + hashlib.sha256(body).digest()), dtype=torch.uint8)


def test_forged_headers_are_refused(whole: Path) -> None:
    content = contents(whole / SNAPSHOT_NAME)
    header, _ = parse(content, "here")
    values = to_dict(header)
    length = int.from_bytes(content[16:24].numpy().tobytes(), "little")
    data = content[24 + length : -DIGEST_BYTES].numpy().tobytes()
    assert parse(forged(values, data), "here")[0] == header
    progress, first, *rest = values["progress"], *values["tensors"]
    forgeries: list[Any] = [
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"seed": 1}',
        {**values, "more": 1},
        {**values, "progress": {**progress, "step": 0}},
        {**values, "progress": {**progress, "elapsed_s": None}},
        {**values, "progress": {**progress, "elapsed_s": -1.0}},
        {**values, "progress": {**progress, "stream_position": -5}},
        {**values, "tensors": rest},
        {**values, "tensors": [{**first, "shape": [1 << 60]}, *rest]},
        {**values, "tensors": [{**first, "shape": [-8]}, *rest]},
        {**values, "tensors": [{**first, "dtype": "object"}, *rest]},
    ]
    for forgery in forgeries:
        with pytest.raises(DataError, match=r"^here: "):
            parse(forged(forgery, data), "here")


def test_tensors_of_another_model_are_refused_and_nothing_is_copied(whole: Path, tmp_path: Path) -> None:
    content = contents(whole / SNAPSHOT_NAME)
    header, tensors = parse(content, "here")
    values = to_dict(header)
    values["tensors"][0]["name"] = "model.other"
    length = int.from_bytes(content[16:24].numpy().tobytes(), "little")
    path = tmp_path / SNAPSHOT_NAME
    forgery = forged(values, content[24 + length : -DIGEST_BYTES].numpy().tobytes())
    path.write_bytes(forgery.numpy().tobytes())
    run = Run(whole, resume=path, kind=ReadOnly)
    before = run.weights
    with pytest.raises(DataError, match=r"first: model\.\S+, found .*, expected None\); another version"):
        run.finish()
    assert_same(run.weights, before)
    assert len(tensors) == len(values["tensors"])


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_no_damage_goes_unnoticed(place: float, flip: int, cut: bool, whole: Path) -> None:
    content = contents(whole / SNAPSHOT_NAME)
    at = int(place * len(content))
    if cut:
        content = content[:at]
    else:
        content[at] ^= flip
    with pytest.raises(DataError):
        parse(content, "here")


def test_snapshots_of_one_state_are_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    header, tensors = parse(contents(whole / SNAPSHOT_NAME), "here")
    keeper = Snapshots(tmp_path, config(), single(CPU), 3)
    stream = stream_of(tmp_path)
    stream.skip(header.progress.stream_position)
    keeper.keep(TrainState(header.progress, tensors), stream)
    assert (tmp_path / SNAPSHOT_NAME).read_bytes() == (whole / SNAPSHOT_NAME).read_bytes()
    save(header.progress, tmp_path / "progress.json")
    assert load(type(header.progress), tmp_path / "progress.json") == header.progress
