from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from golf_core.config import GolfConfig, preset
from golf_core.errors import ConfigError
from orchestrator.job.load import Baseline, DataFiles, Job, load_job, parse_changes
from orchestrator.job.schema import job_schema

PROJECT = Path(__file__).parents[2]
SMOKE = PROJECT / "jobs" / "smoke.yaml"
THREE_SEED = PROJECT / "jobs" / "three_seed.yaml"
CHECK = Draft202012Validator(job_schema())
SMALLEST = "name: x\npreset: small\nseeds: [1]\ndata: sample\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def mistakes(file: Path, text: str | bytes, *changes: str) -> list[str]:
    """The lines of the error that the job `text` gives, without the file's name in front."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_job(file, parse_changes(changes))
    lines = str(caught.value).splitlines()
    assert all(line.startswith((f"{file}: ", "--set")) for line in lines), lines
    return [line.removeprefix(f"{file}: ") for line in lines]


# --- the job files of the project ---


def test_three_seed() -> None:
    job = load_job(THREE_SEED)
    assert (job.resources.ranks, job.resources.accelerator, job.resources.gpus_per_rank) == (8, "H100", 1)
    assert isinstance(job.data, DataFiles)
    assert job.config == GolfConfig()
    assert job.budgets.artifact_bytes == 16_000_000
    assert job.baseline is not None
    assert Baseline(name="b", mean=1.25, bytes_per_token=2.0).mean_bpb == 1.25
    assert job.baseline.mean_bpb == pytest.approx(1.11937967, abs=1e-8)
    assert 1 / (math.log(2) * job.baseline.bytes_per_token) == pytest.approx(0.59226, abs=5e-6)


@pytest.mark.parametrize("path", [SMOKE, THREE_SEED])
def test_job_files_are_executable_and_begin_with_their_interpreter(path: Path) -> None:
    assert path.stat().st_mode & stat.S_IXUSR
    first = path.read_text().splitlines()[0]
    assert first.startswith("#!/usr/bin/env -S ")
    assert len(first) < 127  # kernels before 5.1 cut the line there


@pytest.mark.parametrize("own_environment", [True, False])
@pytest.mark.parametrize("path", [SMOKE, THREE_SEED])
def test_a_job_file_runs_itself_from_the_project_folder(path: Path, own_environment: bool, tmp_path: Path) -> None:
    (tmp_path / "orchestrator").mkdir()
    (tmp_path / "orchestrator" / "__init__.py").touch()
    (tmp_path / "orchestrator" / "__main__.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "jobs").mkdir()
    copy = tmp_path / "jobs" / path.name
    copy.write_text(path.read_text())
    copy.chmod(0o755)
    right, wrong = tmp_path / ".venv" / "bin", tmp_path / "elsewhere"
    if not own_environment:
        right, wrong = tmp_path / "on-path", tmp_path / "nowhere"
    for folder, content in ((right, f'exec "{sys.executable}" "$@"'), (wrong, "exit 9")):
        folder.mkdir(parents=True)
        (folder / "python").write_text(f"#!/bin/sh\n{content}\n")
        (folder / "python").chmod(0o755)
    first = wrong if own_environment else right
    environment = {**os.environ, "PATH": f"{first}:/usr/bin:/bin"}
    # As `ray job submit jobs/x.yaml` does it: a shell in the project's folder is given the path.
    command = f"jobs/{path.name} --set 'overrides.a=b c'"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["run", f"jobs/{path.name}", "--set", "overrides.a=b c"]


# --- resolution ---


@pytest.mark.parametrize("headings", ["", "overrides:\nresources:\nbudgets:\nmlflow:\nbaseline:\n"])
def test_defaults(file: Path, headings: str) -> None:
    file.write_text(SMALLEST + headings)
    job = load_job(file)
    assert job.min_seeds_for_claim == 3
    assert (job.budgets.train_seconds, job.budgets.eval_seconds) == (600.0, 600.0)
    assert (job.mlflow.tracking_uri, job.mlflow.experiment) == (None, "parameter-golf")
    assert (job.baseline, job.output, job.config) == (None, "runs", preset("small"))


@pytest.mark.parametrize(
    ("field", "budget", "unchanged", "sentence"),
    [
        ("train.wallclock_seconds", "train_seconds", 600, r"601 s .* budgets\.train_seconds .*600 s"),
        ("artifact.cap_bytes", "artifact_bytes", 16_000_000, r"16,000,001 is more than budgets\.artifact_bytes allows"),
    ],
)
def test_clock_and_cap_follow_the_budgets(field: str, budget: str, unchanged: int, sentence: str) -> None:
    group, _, name = field.partition(".")

    def found(path: Path, **changes: Any) -> Any:
        return getattr(getattr(load_job(path, changes).config, group), name)

    assert found(THREE_SEED) == unchanged
    assert found(THREE_SEED, **{f"budgets.{budget}": unchanged // 10}) == unchanged // 10
    for path in (SMOKE, THREE_SEED):
        for value in (unchanged // 20, None):
            assert found(path, **{f"overrides.{field}": value}) == value
        with pytest.raises(ConfigError, match=rf"{name}: {sentence}"):
            load_job(path, {f"overrides.{field}": unchanged + 1})


def test_changes_replace_fields_of_any_kind() -> None:
    texts = (
        *("resources.ranks=2", "seeds=[7, 8]", "data.path=/x", "data.tokenizer=/y.model", "baseline=null"),
        *("overrides.train.iterations=10", "overrides.train={muon_lr: 0.5}", "name=other", "name=last"),
    )
    job = load_job(SMOKE, parse_changes(texts))
    assert (job.resources.ranks, job.seeds, job.baseline, job.name) == (2, (7, 8), None, "last")
    assert job.data == DataFiles(path="/x", tokenizer="/y.model")
    assert (job.config.train.iterations, job.config.train.muon_lr) == (10, 0.5)


def test_overrides_nested_and_dotted_and_changes_that_win_over_them(file: Path) -> None:
    file.write_text(SMALLEST + "overrides: {train: {muon_lr: 1e-3, iterations: 5}, train.log_every: 2}\n")
    train = load_job(file).config.train
    assert (train.muon_lr, train.iterations, train.log_every) == (1e-3, 5, 2)
    changes = {"overrides.train": {"log_every": 3}, "overrides.train.iterations": 9}
    train = load_job(file, changes).config.train
    assert (train.iterations, train.log_every) == (9, 3)
    assert load_job(file, {"overrides": {}}).config == preset("small")


def test_digest_depends_on_meaning_and_not_on_spelling(file: Path) -> None:
    file.write_text(SMALLEST)
    other = file.with_name("other.yaml")
    other.write_text("data: 'sample' # text\nseeds: [0x1]\npreset: small\nname: x\nbudgets: {train_seconds: 600.0}\n")
    assert load_job(file).digest == load_job(other).digest
    assert load_job(file, {"seeds": [2]}).digest != load_job(file).digest
    assert load_job(file, {"overrides.train.iterations": 9}).digest != load_job(file).digest


@pytest.mark.parametrize("path", [SMOKE, THREE_SEED])
def test_a_job_reads_back_from_its_record(path: Path) -> None:
    job = load_job(path)
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again == job
    assert again.digest == job.digest


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [("seeds", r"result\.json: seeds: missing"), ("config", r"result\.json\.config"), ("", "mapping")],
)
def test_a_damaged_record_is_named(lost: str, sentence: str) -> None:
    values = {name: value for name, value in load_job(SMOKE).to_dict().items() if name != lost}
    with pytest.raises(ConfigError, match=sentence):
        Job.from_dict(values if lost else [], where="result.json")  # type: ignore[arg-type]


# --- mistakes ---

BOTH = [
    ("sedes: [1]", "sedes: no such field; did you mean 'seeds'?"),
    ("name: a/b", "name: got 'a/b'; give a name of up to 64 letters"),
    ("preset: smal", "preset: got 'smal'; give record or small"),
    ("seeds: [3, 4, 3]", "seeds: seed 3 given more than once"),
    ("seeds: [3, 4, 3, 4]", "seeds: seeds 3, 4 given more than once"),
    ("seeds: []", "seeds: got []; give a list of one or more"),
    ("seeds: [true]", "seeds[0]: got true"),
    ("seeds: [4294967296]", "seeds[0]: got 4294967296; give a list of one or more different whole numbers from 0"),
    ("data: smaple", "data: got 'smaple'; give the word sample, or a mapping"),
    ("data: {path: a}", "data.tokenizer: missing; give the SentencePiece .model file"),
    ("data: {pth: x, path: a, tokenizer: b}", "data.pth: no such field; did you mean 'path'?"),
    ("data: {path: a, tokenizer: b, fetch: {train_shards: 0}}", "data.fetch.train_shards: got 0; give a whole number"),
    ("data: {path: a, tokenizer: b, fetch: {repo: no slash}}", "data.fetch.repo: got 'no slash'; give a dataset"),
    ("overrides: [1]", "overrides: got [1]; give a mapping"),
    ("overrides: {train: {iteration: 2}}", "overrides.train.iteration: no such field; did you mean 'iterations'?"),
    ("overrides: {trian.iterations: 2}", "overrides.trian: no such field; did you mean 'train'?"),
    ("overrides: {mixer.orders: 1}", "overrides.mixer: no such field"),
    ("overrides: {train.iterations: {}}", "overrides.train.iterations: expected int, got {}"),
    ("overrides: {train: 5}", "overrides.train: is a group of fields"),
    ("overrides: {train: {iterations: many}}", "overrides.train.iterations: expected int, got 'many'"),
    ("overrides: {train.iterations: true}", "overrides.train.iterations: expected int, got True"),
    ("overrides: {train.muon_lr: null}", "overrides.train.muon_lr: got null; give a number"),
    ("overrides: {train: {muon_dtype: float16}}", "overrides.train.muon_dtype: 'float16' is not one of float32"),
    ("overrides: {model.ve_layers: 3}", "overrides.model.ve_layers: expected a list, got 3"),
    ("overrides: {evaluate: {mixer: {orders: 0.5}}}", "overrides.evaluate.mixer.orders: expected int, got 0.5"),
    ("resources: {ranks: true}", "resources.ranks: got true; give a whole number from 1 to 8"),
    ("resources: {nodes: 2}", "resources: an odd number of ranks cannot be shared out"),
    ("resources: {cpus_per_rank: 0}", "resources.cpus_per_rank: got 0; give a number above 0"),
    ("resources: {accelerator: ''}", "resources.accelerator: got ''; give a GPU's name"),
    ("limits: null", "limits: got null; give a mapping"),
    ("limits: {stall_seconds: 1}", "limits.stall_seconds: got 1; give a number of at least 2"),
    ("budgets: {artifact_bytes: 1.5}", "budgets.artifact_bytes: got 1.5; give a whole number above 0"),
    ("budgets: {eval_seconds: yes}", "budgets.eval_seconds: got true; give a number above 0"),
    ("baseline: {name: b, mean: 1.1}", "baseline.bytes_per_token: missing; give a number above 0, the bytes per token"),
    ("baseline: {name: b, bytes_per_token: 2}", "baseline: wants either bpb"),
    ("baseline: {name: b, bytes_per_token: 2, mean: 1, bpb: [1, 2]}", "baseline: wants either bpb"),
    ("baseline: {name: b, bytes_per_token: 2, bpb: [1.1]}", "baseline.bpb: got [1.1]; give a list of two or more"),
    ("cost: {stop_when_hopeless: 'yes'}", "cost.stop_when_hopeless: got 'yes'; give true"),
    ('mlflow: {"\\e[31m\\n": 1}', "mlflow.\\x1b[31m\\n: no such field"),
]
"""A line that replaces one of the smallest job, and the sentence; the published schema refuses it as well."""
READER_ALONE = [
    ("seeds: [1.0]", "seeds[0]: got 1.0"),
    ("overrides: {train.muon_lr: .nan}", "overrides.train.muon_lr: got nan; give a finite number"),
    ("overrides: {model.num_kv_heads: 0}", "overrides.model.num_kv_heads: 0 is not at least 1"),
    ("overrides: {model.ve_layers: [9]}", "overrides.model.ve_layers: [9] names a block outside"),
    ("overrides: {train: {log_every: 2}, train.log_every: 3}", "overrides.train.log_every: given twice"),
    # Without the wrong one the others would clash with defaults: that is not said.
    ("overrides: {train.batch_tokens: 1000, train.seq_len: 100}", "overrides.train.batch_tokens: 1000 is not a"),
    ("{resources: {ranks: 8}, overrides: {train.micro_batches: 4}}", "resources.ranks: 8 ranks cannot share"),
    ("budgets: {eval_seconds: .inf}", "budgets.eval_seconds: got inf; give a finite number"),
    ("limits: {eval_seconds: 600}", "limits.eval_seconds: 600 s would end the phase within its budget of 600 s"),
    ("mlflow: {tracking_uri: 'https://me:pass@x.org'}", "mlflow: holds a password, and a job file is no place for one"),
]


@pytest.mark.parametrize(
    ("line", "expected", "valid"), [*((*row, False) for row in BOTH), *((*row, True) for row in READER_ALONE)]
)
def test_one_mistake_one_sentence(file: Path, line: str, expected: str, valid: bool) -> None:
    document = {**yaml.safe_load(SMALLEST), **yaml.safe_load(line)}
    (found,) = mistakes(file, yaml.safe_dump(document))
    assert found.startswith(expected)
    assert CHECK.is_valid(document) == valid


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seeds=[3, 4, 3]", "--set: seeds: seed 3 given more than once"),
        ("seeds=!!set {1, 2}", "--set: seeds: YAML reads this as a set"),
        ("seeds=[-042]", "--set seeds=[-042]: line 1: YAML reads '-042' as a number in base 8; leave out the zero"),
        ("name=2026-03-25", "--set: name: YAML reads this as a date; put text in quotes"),
        ("data.pth=x", "--set: data.pth: no such field; did you mean 'path'?"),
        ("overrides.train.iteration=1", "--set: overrides.train.iteration: no such field"),
        ("overrides.train.batch_tokens=1e400", "--set: overrides.train.batch_tokens: got inf"),
        ("resources", "--set resources: not of the form field=value"),
        ("a..b=1", "--set a..b=1: not of the form field=value"),
        ("seeds=[1", "--set seeds=[1: line 1: not YAML"),
    ],
)
def test_a_mistaken_change_is_named_as_such(file: Path, change: str, expected: str) -> None:
    found = mistakes(file, SMALLEST, change)
    assert any(line.startswith(expected) for line in found), found


def test_every_mistake_is_listed(file: Path) -> None:
    found = mistakes(
        file,
        "prest: small\npreset: small\nname: x y\nseeds: [1, 1]\ndata: {path: a}\n"
        "baseline: {name: b, mean: 1.0}\nresources: {ranks: no, rank: 1}\n"
        "overrides: {train: {iteration: 3, muon_lr: fast}, model.num_layer: 4}\n",
    )
    fields = [line.split(": ")[0] for line in found]
    assert sorted(fields) == sorted(
        [
            *("name", "seeds", "data.tokenizer", "resources.ranks", "resources.rank"),
            *("baseline.bytes_per_token", "prest"),
            *("overrides.train.iteration", "overrides.train.muon_lr", "overrides.model.num_layer"),
        ]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resources:\n  ranks: 1\n  'ranks': 2\n", "line 3: the field 'ranks' is given twice"),
        ("name: [x\n", "line 2: not YAML"),
        ('"\\e[31m\\n": b\n"\\e[31m\\n": b\n', "line 2: the field '\\x1b[31m\\n' is given twice"),
        ("1: x\n", "1: is not a field's name"),
        ("name: !!binary aGk=\n", "name: YAML reads this as a bytes"),
        ("name: 2024-13-45\n", "holds a value that YAML cannot read (month must be in 1..12)"),
        (b"name: x\nseeds: \xff\n", "line 2: not UTF-8 text"),
        ("# " + "x" * 1_000_000, "larger than 1,000,000 bytes"),
    ],
)
def test_files_that_are_no_job(file: Path, text: str | bytes, expected: str) -> None:
    (found,) = mistakes(file, text)
    assert found.startswith(expected)
