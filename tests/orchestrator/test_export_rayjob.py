"""The KubeRay manifest: its form, what it asks for, and that no value of the job reads as anything else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_job
from typer.testing import CliRunner

from golf_core.errors import UserError
from orchestrator.job.load import Job, load_job
from orchestrator.submit.command import RayJobOptions, export_app
from orchestrator.submit.entry import worst_case_seconds
from orchestrator.submit.rayjob import GKE_LABEL, MAX_SECONDS, kubernetes_name, rayjob_manifest

SCHEMA = yaml.safe_load((Path(__file__).parents[1] / "data" / "rayjob_schema.yaml").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OPTIONS = RayJobOptions(image="registry.example/golf:1", ray_version="2.60.0")
METADATA = {"job_name": "tiny", "git_commit": "f" * 40}
H100 = {"ranks": 8, "cpus_per_rank": 4, "accelerator": "H100"}
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return load_job(write_job(tmp_path, resources=H100))


def manifest_of(job: Job, path: str = "jobs/a.yaml", changes: tuple[str, ...] = (), **options: Any) -> Any:
    """The manifest as `kubectl` reads it."""
    for name in ("env", "node_selector"):
        options[name] = [f"{key}={value}" for key, value in options.pop(name, {}).items()]
    made = yaml.safe_load(rayjob_manifest(job, path, changes, METADATA, replace(OPTIONS, **options)))
    VALIDATOR.validate(made)
    return made


def pods_of(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Head pod, worker group, worker pod."""
    cluster = manifest["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], group, group["template"]["spec"]


class TestForm:
    def test_the_schema_is_one_and_knows_no_unknown_fields(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        objects = [s for s in SCHEMA["$defs"].values() if "properties" in s]
        assert objects and all(s["additionalProperties"] is False for s in objects)

    @pytest.mark.parametrize("nodes", [1, 2])
    @pytest.mark.parametrize("accelerator", [None, "H100"])
    def test_every_option_at_once(self, nodes: int, accelerator: str | None, tmp_path: Path) -> None:
        resources = {"ranks": 4, "nodes": nodes, "cpus_per_rank": 1.5, "accelerator": accelerator}
        job = load_job(write_job(tmp_path, resources=resources, name="2-A_b.C" + "x" * 50))
        names = {"namespace": "team-a", "claim": "golf-data", "secret": "mlflow", "submission_mode": "SidecarMode"}
        pods = {"memory": "200Gi", "shm": "16Gi", "env": {"A": "1"}, "node_selector": {GKE_LABEL: "nvidia-l4"}}
        manifest_of(job, **names, **pods, parallel=3, token=True)

    @given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
    def test_any_job_has_a_name_that_kubernetes_takes(self, name: str) -> None:
        found = kubernetes_name(name)
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", found) and len(found) <= 41

    def test_names(self, tmp_path: Path) -> None:
        expected = {"three-seed": "three-seed", "A_b.C": "a-b-c", "3x": "golf-3x", "x" * 64: "x" * 41, "a-.": "a"}
        assert {name: kubernetes_name(name) for name in expected} == expected
        made = manifest_of(load_job(write_job(tmp_path, name="null")))
        assert made["metadata"]["name"] == "null"  # which YAML would take for something else


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


class TestWhatItAsksFor:
    def test_the_head_has_room_for_no_rank(self, job: Job) -> None:
        made = manifest_of(job)
        head, _, _ = pods_of(made)
        start = made["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
        assert start["num-gpus"] == start["num-cpus"] == "0"
        assert not any("nvidia.com/gpu" in part for part in walk(head))
        assert "tolerations" not in head
        assert not {"entrypointNumGpus", "entrypointNumCpus", "entrypointResources"} & set(made["spec"])

    @pytest.mark.parametrize(
        ("resources", "parallel", "pods", "limits"),
        [
            (H100, 2, 2, {"cpu": "32", "memory": "192Gi", "nvidia.com/gpu": "8"}),
            ({**H100, "nodes": 2, "cpus_per_rank": 1.3}, 3, 6, {"cpu": "6", "memory": "96Gi", "nvidia.com/gpu": "4"}),
            ({}, 1, 1, {"cpu": "1", "memory": "4Gi"}),
        ],
    )
    def test_a_worker_is_a_node_of_a_gang(
        self, resources: dict[str, Any], parallel: int, pods: int, limits: dict[str, str], tmp_path: Path
    ) -> None:
        made = manifest_of(load_job(write_job(tmp_path, resources=resources)), parallel=parallel)
        _, group, worker = pods_of(made)
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == pods
        asked = worker["containers"][0]["resources"]
        assert asked["limits"] == asked["requests"] == limits
        tolerated = [toleration["key"] for toleration in worker.get("tolerations", [])]
        assert tolerated == [name for name in limits if "gpu" in name] and "nodeSelector" not in worker

    def test_volumes(self, job: Job) -> None:
        """Shared memory is memory; a claim is mounted everywhere."""
        _, _, worker = pods_of(manifest_of(job, shm="16Gi"))
        (volume,) = worker["volumes"]
        assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
        assert worker["containers"][0]["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
        for pod in pods_of(manifest_of(job, claim="golf-data", mount="/data"))[::2]:
            assert {"name": "golf", "persistentVolumeClaim": {"claimName": "golf-data"}} in pod["volumes"]
            assert {"name": "golf", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]

    def test_it_ends_and_says_where_it_comes_from(self, job: Job, tmp_path: Path) -> None:
        made = manifest_of(job, parallel=3, ttl=60)
        spec = made["spec"]
        assert spec["metadata"] == METADATA
        assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 60
        assert spec["backoffLimit"] == 0
        assert spec["activeDeadlineSeconds"] == worst_case_seconds(job, 3) + 3600
        assert {pod["restartPolicy"] for pod in pods_of(made)[::2]} == {"Never"}
        endless = load_job(write_job(tmp_path, limits={"audit_seconds": 1e12}, audit={"positions": 1}))
        assert manifest_of(endless)["spec"]["activeDeadlineSeconds"] == MAX_SECONDS

    def test_secrets_are_named_and_not_told_and_values_not_expanded(self, job: Job) -> None:
        made = manifest_of(job, secret="mlflow-login", env={"A": "$(HOME) $$(B) $C"})
        for pod in pods_of(made)[::2]:
            (container,) = pod["containers"]
            assert container["envFrom"] == [{"secretRef": {"name": "mlflow-login"}}]
            assert container["env"][-1] == {"name": "A", "value": "$$(HOME) $$$$(B) $$C"}
        for name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "mlflow_password", "WANDB_API_KEY"):
            with pytest.raises(UserError, match=rf"--env {name}: a manifest is no place for secrets"):
                manifest_of(job, env={name: "x"})

    def test_a_token_is_the_operators_own(self, job: Job) -> None:
        cluster = manifest_of(job, token=True)["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == "2.60.0"
        assert "authOptions" not in manifest_of(job)["spec"]["rayClusterSpec"]


class TestTheCommand:
    def test_plain_words_take_the_usual_way(self, job: Job) -> None:
        spec = manifest_of(job, changes=("output=/mnt/golf/runs",))["spec"]
        assert spec["submissionMode"] == "K8sJobMode"
        assert spec["entrypoint"] == "python -m orchestrator run jobs/a.yaml --set output=/mnt/golf/runs"

    @pytest.mark.parametrize("word", ["seeds=[1]", "a b", "$(id)", "a;b", "`id`", "a'b", 'a"b', "a\nb", "~", "*"])
    def test_others_take_the_way_with_one_shell(self, word: str, job: Job) -> None:
        assert manifest_of(job, changes=(word,))["spec"]["submissionMode"] == "HTTPMode"
        for mode in ("K8sJobMode", "SidecarMode"):
            with pytest.raises(UserError, match=f"--submission-mode {mode}: hands the command through two shells"):
                manifest_of(job, changes=(word,), submission_mode=mode)
        assert manifest_of(job, submission_mode="HTTPMode")["spec"]["submissionMode"] == "HTTPMode"


@pytest.fixture(scope="module")
def any_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return load_job(write_job(tmp_path_factory.mktemp("job"), resources=H100))


@settings(max_examples=examples(100), deadline=None)
@given(path=texts.filter(bool), change=texts, value=texts)
def test_no_value_is_more_than_a_value(any_job: Job, path: str, change: str, value: str) -> None:
    """Whatever a path or a variable holds, YAML and shell read it back as that, and the rest is as ever."""
    project = "/" + value.replace(":", "")
    made = manifest_of(any_job, path=path, changes=(change,), env={"A": value}, project=project)
    words = shlex.split(made["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "orchestrator", "run"]
    assert words[4] == (f"./{path}" if path.startswith("-") else path) and words[5:] == ["--set", change]
    usual = manifest_of(any_job, changes=("x",), env={"A": "x"})
    for manifest in (made, usual):
        manifest["spec"]["entrypoint"] = manifest["spec"]["submissionMode"] = None
        for pod in pods_of(manifest)[::2]:
            (container,) = pod["containers"]
            assert container["env"][-1]["name"] == "A"
            container["env"][-1]["value"] = container["workingDir"] = None
    assert made == usual


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("image", ("a b", "")),
        ("ray_version", ("new",)),
        ("namespace", ("Team_A", "a\n")),
        ("claim", ("../x",)),
        ("secret", ("a b",)),
        ("memory", ("lots",)),
        ("shm", ("-1Gi",)),
        ("mount", ("data",)),
        ("project", ("a",)),
        ("env", ({"A-B": "x"},)),
        ("node_selector", ({"a b": "c"}, {"a": "c\n"})),
        ("parallel", (0, 4)),
    ],
)
def test_what_kubernetes_would_refuse(option: str, wrong: tuple[Any, ...], job: Job) -> None:
    for value in wrong:
        with pytest.raises(UserError, match=f"^--{option.replace('_', '-')} ?") as error:
            manifest_of(job, **{option: value})
        assert "\n" not in str(error.value)


class TestTheProgram:
    def run(self, job: Path, *arguments: str) -> Any:
        return CliRunner().invoke(export_app, ["rayjob", str(job), "--image", "golf:1", *arguments])

    def test_to_a_file(self, tmp_path: Path) -> None:
        path, out = write_job(tmp_path, resources=H100), tmp_path / "out" / "job.yaml"
        done = self.run(path, "--claim", "data", "--gke", "--out", str(out))
        assert done.exit_code == 0, done.output
        made = yaml.safe_load(out.read_text())
        VALIDATOR.validate(made)
        assert made["spec"]["entrypoint"].endswith(" --set output=/mnt/golf/runs")
        assert pods_of(made)[2]["nodeSelector"] == {GKE_LABEL: "nvidia-h100-80gb"}
        # The digest is that of the job that will run, its output changed.
        digest = load_job(path, {"output": "/mnt/golf/runs"}).digest
        assert made["spec"]["metadata"]["job_sha256"] == digest

    def test_the_users_own_output_wins_and_without_a_claim_results_are_lost(self, tmp_path: Path) -> None:
        job = write_job(tmp_path)
        done = self.run(job, "--claim", "data", "--set", "output=/x")
        assert yaml.safe_load(done.stdout)["spec"]["entrypoint"].endswith("--set output=/mnt/golf/runs --set output=/x")
        done = self.run(job)
        assert "without --claim the results are lost" in done.stderr
        VALIDATOR.validate(yaml.safe_load(done.stdout))

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--gke"], "--gke: resources.accelerator is null"),
            (["--env", "A"], "--env A: not of the form NAME=VALUE"),
            (["--submission-mode", "Mail"], "--submission-mode Mail: give K8sJobMode, HTTPMode or SidecarMode"),
        ],
    )
    def test_mistakes(self, arguments: list[str], sentence: str, tmp_path: Path) -> None:
        done = self.run(write_job(tmp_path), *arguments)
        assert isinstance(done.exception, UserError) and str(done.exception).startswith(sentence)
