"""The single-file program of golf_core, alone in an empty folder: it does what the service does, to the last figure."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_stages import TINY

import golf_core
from golf_core.artifact.program import (
    ENTRY,
    NOT_FOLLOWED,
    is_made_from,
    needed_modules,
    packed_program,
    readable_program,
)
from golf_core.config import GolfConfig, preset
from golf_core.results import EvalResult, ExportResult, TrainResult
from golf_core.strict_json import load
from golf_core.train_gpt import main

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
BLOCKER = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("golf_core", "orchestrator", "python_minifier"):
            raise ImportError(f"{name} is not for the program")


sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with next to nothing in it, in which golf_core cannot be imported."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = run("-c", "import golf_core", cwd=folder, env=environment)
    assert done.returncode == 1 and "not for the program" in done.stderr
    return environment


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """A tiny seed as golf_core's own stages leave it."""
    out = tmp_path_factory.mktemp("service")
    place = ("--data", str(sample_folder), "--out", str(out), "--seed", "7")
    done = run("-m", "golf_core", "run", "--preset", "small", *place, *TINY, cwd=out, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return out


def run(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=cwd, env=env)


def figures(log: str, line: str) -> dict[str, str]:
    """The `name:value` figures of the last line of `log` that begins with `line`."""
    found = [text for text in log.splitlines() if text.startswith(f"{line} ")]
    assert found, log
    return dict(pair.split(":", 1) for pair in found[-1].split()[1:])


def copy_of(service: Path, folder: Path, name: str = "train_gpt.py") -> Path:
    (folder / name).write_bytes((service / "train_gpt.py").read_bytes())
    return folder / name


def test_what_the_program_holds() -> None:
    """Whole modules, without what it does not need, and nothing from outside but three packages."""
    modules = needed_modules(Path(golf_core.__file__).parent, ENTRY, NOT_FOLLOWED)
    assert len(modules) < 65 and "golf_core/model/gpt.py" in modules
    assert not [path for path in modules if path.startswith(("golf_core/audit", "golf_core/data/sample"))]
    nodes = [node for text in modules.values() for node in ast.walk(ast.parse(text))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {module.partition(".")[0] for module in imported} - sys.stdlib_module_names
    assert outside == {"golf_core", "torch", "numpy", "sentencepiece"}
    readable = readable_program(preset("record"))
    assert all(text in readable for text in modules.values())
    program = packed_program(preset("record"))
    assert is_made_from(program, readable) and not is_made_from(program, readable_program(preset("small")))
    assert len(program) < 50_000


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "import hashlib; from golf_core.config import small; from golf_core.artifact.program import packed_program; "
        "print(hashlib.sha256(packed_program(small())).hexdigest())"
    )
    environments = [dict(os.environ) | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    digests = [run("-c", code, cwd=tmp_path, env=env).stdout for env in environments]
    assert digests[0] == digests[1] and len(digests[0]) == 65


def test_whole_run_alone(service: Path, alone: dict[str, str], sample_folder: Path, tmp_path: Path) -> None:
    """With the challenge's environment variables and no options, in an empty folder: the service's figures."""
    program = copy_of(service, tmp_path)
    paths = {"DATA_PATH": str(sample_folder), "TOKENIZER_PATH": str(sample_folder / "tokenizer.model"), "SEED": "7"}
    done = run(program.name, cwd=tmp_path, env=alone | paths)
    assert done.returncode == 0, done.stderr
    assert load(ExportResult, tmp_path / "export.json").sha256 == load(ExportResult, service / "export.json").sha256
    assert (tmp_path / "train_gpt.py").read_bytes() == (service / "train_gpt.py").read_bytes()
    trained, evaluated = load(TrainResult, tmp_path / "train.json"), load(EvalResult, tmp_path / "evaluate.json")
    assert trained.train_loss == load(TrainResult, service / "train.json").train_loss
    assert evaluated.neural == load(EvalResult, service / "evaluate.json").neural
    log = done.stdout
    assert "seed:7 world_size:1" in log and "torch:" in log and "config model vocab_size:1024" in log
    assert len(re.findall(r"^step:\d/4 train_loss:", log, re.MULTILINE)) == 4
    assert figures(log, "train")["steps"] == "4" and int(figures(log, "train")["parameters"]) == trained.parameters
    sizes = figures(log, "export")
    assert int(sizes["code_bytes"]) == program.stat().st_size
    assert int(sizes["total_bytes"]) == program.stat().st_size + (tmp_path / "model.golf").stat().st_size
    for name in ("neural", "mixture", "published"):
        score = getattr(evaluated, name)
        assert float(figures(log, f"final_{name}")["val_bpb"]) == pytest.approx(score.bpb, abs=1e-8)
        assert float(figures(log, f"final_{name}")["val_loss"]) == pytest.approx(score.nats_per_token, abs=1e-8)


def test_two_ranks_under_torchrun(alone: dict[str, str], service: Path, sample_folder: Path, tmp_path: Path) -> None:
    program = copy_of(service, tmp_path)
    place = ("--data", str(sample_folder), "--tokenizer", str(sample_folder / "tokenizer.model"), "--out", "out")
    done = run(*TORCHRUN, program.name, *place, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    trained = load(TrainResult, tmp_path / "out" / "train.json")
    assert (trained.world_size, trained.steps, trained.seed) == (2, 4, 42)
    assert done.stdout.count("train begins") == 1  # rank 0 alone prints
    again = run(*TORCHRUN, program.name, *place, "--evaluate", str(service / "model.golf"), cwd=tmp_path, env=alone)
    assert again.returncode == 0, again.stderr
    expected = load(EvalResult, service / "evaluate.json")
    for name in ("neural", "mixture", "published"):
        found = float(figures(again.stdout, f"final_{name}")["val_bpb"])
        assert found == pytest.approx(getattr(expected, name).bpb, abs=1e-6)
    assert int(figures(again.stdout, "artifact")["code_bytes"]) == program.stat().st_size


def test_readable_form_runs_alone(service: Path, alone: dict[str, str], sample_folder: Path, tmp_path: Path) -> None:
    config = load(GolfConfig, service / "config.json")
    (tmp_path / "train_gpt_readable.py").write_text(readable_program(config))
    arguments = ("--data", str(sample_folder), "--tokenizer", str(sample_folder / "tokenizer.model"))
    evaluate = ("--evaluate", str(service / "model.golf"))
    done = run("train_gpt_readable.py", *arguments, *evaluate, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    expected = load(EvalResult, service / "evaluate.json")
    assert load(EvalResult, tmp_path / "evaluate.json").neural.bpb == pytest.approx(expected.neural.bpb, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--data", "/nonexistent"], {}, "/nonexistent"),
        ([], {}, "data/tokenizers/fineweb_1024_bpe.model"),
        (["--seed", "first"], {}, "--seed: 'first'"),
        ([], {"SEED": "-1"}, "SEED: '-1'"),
        (["--train", "--evaluate", "x"], {}, "not allowed with"),
        (["--evalute", "x"], {}, "unrecognized arguments: --evalute x"),
        (["--evaluate", "train_gpt.py"], {}, "not an artifact"),
        (["--export", "train_gpt.py"], {}, "not a checkpoint"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(
    arguments: list[str],
    environment: dict[str, str],
    sentence: str,
    sample_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The program's own entry module, before it is packed."""
    if "data/tokenizers" not in sentence:
        environment = {"TOKENIZER_PATH": str(sample_folder / "tokenizer.model")} | environment
    for name, value in ({"DATA_PATH": str(sample_folder)} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_gpt.py").write_text("no artifact")
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert sentence in errors and errors.startswith("error: ") and len(errors.strip().splitlines()) == 1


def test_a_mistake_in_the_packed_program(service: Path, alone: dict[str, str], tmp_path: Path) -> None:
    done = run(copy_of(service, tmp_path).name, cwd=tmp_path, env=alone)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data/") and len(done.stderr.strip().splitlines()) == 1
