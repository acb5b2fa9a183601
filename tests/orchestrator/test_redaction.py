"""What is secret in an environment, and that it survives in nothing that is written down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from claim_builders import export_result, finished, job
from drawing import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from golf_core import strict_json
from golf_core.artifact.program import minified, pack
from golf_core.errors import ConfigError
from golf_core.files import sha256
from golf_core.results import DataRecord
from orchestrator.claim.judge import judge
from orchestrator.folder.ledger import Ledger, read_ledger
from orchestrator.folder.redaction import REDACTED, Redactor, save_redacted
from orchestrator.folder.results import ARTIFACT, DATA, LEDGER, LOG, PROGRAM, READABLE, RESULT, RunResult
from orchestrator.package.package import load_record, package

SECRETS = {
    "HF_TOKEN": "correct-horse",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "MLFLOW_TRACKING_PASSWORD": 'with "quotes" & a space',
    "OPENAI_API_KEY": "a%b+c/d=e",
    "PGPASSWORD": "hunter2!",
    "SERVICE_CREDENTIALS": '{"private": "line one\\nline two"}',
    "REGISTRY_AUTH": "üser:pässwörd",
    "SLASH_TOKEN": "/k3Jabcd+EFGHijkl0123456789mnop",
}


def redactor(**environ: str) -> Redactor:
    return Redactor.from_environment(environ)


@pytest.mark.parametrize(("name", "secret"), SECRETS.items())
def test_a_secret_is_replaced_by_its_name_in_every_writing(name: str, secret: str) -> None:
    of = redactor(**SECRETS)
    for written in (
        secret,
        quote(secret, safe=""),
        quote(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    ):
        assert of.redact(f"before{written}after") == f"before[redacted {name}]after"
    assert of.redact_bytes(b"\xff " + secret.encode() + b" \x00") == f"\udcff [redacted {name}] \x00".encode(
        "utf-8", "surrogateescape"
    )
    assert of.variable_in(b"\x00\xff" + secret.encode()) == name
    assert of.variable_in(b"nothing here") is None
    assert secret not in repr(of)


NO_SECRETS = """
RAY_AUTH_MODE=token
RAY_AUTH_MODE=kerberos-or-so
SSH_AUTH_SOCK=/tmp/ssh-XXXX1234abcdEFGH/agent.1
XAUTHORITY=/home/somebody/.Xauthority
XAUTHORITY=notapathbutnosecret
GOOGLE_APPLICATION_CREDENTIALS=/home/somebody/keys/service.json
HF_TOKEN_PATH=~/.cache/token
API_TOKEN=~/.cache/token
API_TOKEN=C:\\tokens\\mine.txt
TOKENIZERS_PARALLELISM=falsehood
USE_AUTH=disabled
PASSWORD=none
MAX_TOKENS=1000000
TOKEN_RATE=1.25e-10
AUTH_PORT=tcp://10.96.0.1:443
AUTH_PORT_443_TCP_ADDR=10.96.100.100
AUTH_SERVICE=tcp://10.96.0.1:443
SECRET=short
GIT_AUTHOR_NAME=A. Somebody
SLURM_JOB_ACCOUNT=project-one
PWD=/some/where
OLDPWD=/some/where (else)
GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D
MLFLOW_TRACKING_URI=https://mlflow.example.org:5000/path
HTTPS_PROXY=http://proxy.example.org:3128
GIT_REMOTE=ssh://git@example.org/repo
"""


@pytest.mark.parametrize("variable", NO_SECRETS.split("\n")[1:-1])
def test_what_is_no_secret(variable: str) -> None:
    name, _, value = variable.partition("=")
    assert redactor(**{name: value}).redact(f"={value}=") == f"={value}="


def test_a_password_or_token_in_an_address_or_field() -> None:
    for name in ("MLFLOW_TRACKING_URI", "https_proxy", "ANYTHING"):
        of = redactor(**{name: "postgresql://golf:p%40ss!word@db.example.org:5432/runs"})
        marker = f"[redacted {name}]"
        assert of.redact("could not log in with p@ss!word") == f"could not log in with {marker}"
        assert of.redact("p%40ss!word") == marker
        address = "postgresql://{}@db.example.org"
        assert of.redact(f"at {address.format('golf:p%40ss!word')}") == f"at {address.format(REDACTED)}"
        assert of.redact("db.example.org:5432/runs") == "db.example.org:5432/runs"
    of = redactor(REMOTE="https://0123456789abcdefghij@example.org/x", DSN="host=db password=swordfish user=golf")
    assert of.redact("0123456789abcdefghij") == "[redacted REMOTE]"
    assert of.redact("swordfish") == "[redacted DSN]"
    found = redactor().redact("GET https://me:pw@example.org:80/x failed")  # in any address, of no environment
    assert found == f"GET https://{REDACTED}@example.org:80/x failed"


@pytest.mark.parametrize(
    "token",
    [
        *("hf_" + "aB3" * 12, "ghp_" + "aB3" * 12, "github_pat_" + "aB3_" * 12, "glpat-" + "aB3-" * 6),
        *("AKIAIOSFODNN7EXAMPLE", "sk-" + "aB3" * 12, "sk-proj-" + "aB3_" * 12, "xoxb-1234567890-abcdef"),
        *("AIza" + "aB3de" * 7, "dapi" + "01ab" * 8, "Bearer abcdefgh12345678"),
        "Authorization: Basic dXNlcjpwYXNzd29yZA==",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\nabc\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_tokens_of_known_shapes_need_no_environment(token: str) -> None:
    assert redactor().redact(f"with '{token}' in it") == "with '[redacted token]' in it"


DIGEST = hashlib.sha256(b"golf").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        DIGEST,
        DIGEST[:40],
        f"sha256:{DIGEST} {DIGEST[:40]}",
        "val_bpb:1.11508120 ± 0.00035 -1e-09 1.757687",
        "/home/somebody/runs/three_seed-20260101-101010/seed-42/log.jsonl",
        "https://mlflow.example.org:5000/#/experiments/1",
        "s3://bucket/key@2",
        "hf_hub_download of huggingface_hub; task-list; desk-1; the bearer responsibilities; sk-learn-like-names-too",
        "step:1/6104 train_loss:6.93 tokens_per_second:8020000.0",
        "tokenizer.model fineweb_train_000000.bin SP8192",
        "git@example.org:somebody/project.git",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    of = redactor(A_TOKEN=DIGEST[10:18], ANOTHER_TOKEN="correct-horse")
    assert of.redact(text) == text
    assert redactor().redact_bytes(text.encode()) == text.encode()


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----"
A = "[redacted A_TOKEN]"


@pytest.mark.parametrize(
    ("environ", "text", "expected"),
    [
        # A short secret alone is one, though digits of a digest are none.
        ({"A_TOKEN": DIGEST[10:18]}, f"{DIGEST[10:18]} {DIGEST} x{DIGEST[10:18]}", f"{A} {DIGEST} x{A}"),
        ({"A_TOKEN": DIGEST}, DIGEST, A),
        # The longest wins.
        (
            {"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefghijkl", "C_SECRET": "abcdefgh"},
            "abcdefghijkl abcdefgh",
            f"[redacted B_TOKEN] {A}",
        ),
        # A name that holds a value is not given.
        ({"GOLFTOKEN": "GOLFTOKEN", "B_TOKEN": "swordfish"}, "GOLFTOKEN", REDACTED),
        ({"B_TOKEN": "redacted", "C_TOKEN": "[redacted]"}, "[redacted]", "[redacted]"),
        # Lines of a long secret are secret.
        ({"A_TOKEN": KEY}, f"x{KEY}x", f"x{A}x"),
        ({"A_TOKEN": KEY}, json.dumps(KEY), f'"{A}"'),
        ({"A_TOKEN": KEY}, "line: b3BlbnNzaC1rZXktdjEAAAAABG5vbmU", f"line: {A}"),
    ],
)
def test_which_secret_is_named(environ: dict[str, str], text: str, expected: str) -> None:
    assert redactor(**environ).redact(text) == expected


def test_keys_and_other_values_are_kept() -> None:
    of = redactor(A_TOKEN="swordfish")
    value = {"swordfish": ["swordfish", 1, 2.5, None, True, ("xswordfish", b"swordfish")]}
    assert of.redact_value(value) == {"swordfish": [A, 1, 2.5, None, True, (f"x{A}", A.encode())]}


secrets = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=6, max_size=30)
names = st.sampled_from(["HF_TOKEN", "A_SECRET", "DB_PASSWORD", "X_API_KEY", "aws_access_key", "My-Credential"])
environments = st.dictionaries(names, secrets, min_size=1, max_size=4)


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in texts_in(item)]


quiet = settings(max_examples=examples(150), derandomize=True)


@quiet
@given(environments, st.data())
def test_no_secret_survives_in_any_value(environ: dict[str, str], data: st.DataObject) -> None:
    of = Redactor.from_environment(environ)
    held = [value.strip() for value in environ.values() if of.variable_in(value.encode())]
    assume(held)
    written = st.sampled_from([*held, *map(quote, held), *(json.dumps(secret)[1:-1] for secret in held)])
    text = st.lists(written | st.text(max_size=5), max_size=6).map("".join)
    value = data.draw(
        st.recursive(text | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
    )
    redacted = of.redact_value(value)
    for text in texts_in(redacted):
        assert not any(secret in text for secret in held)
    assert of.redact_value(redacted) == redacted
    assert of.redact_bytes(of.redact(str(value)).encode()) == of.redact(str(value)).encode()


@quiet
@given(environments, st.text(max_size=200))
def test_text_without_secrets_is_unchanged(environ: dict[str, str], text: str) -> None:
    assume(not any(value.strip() in text for value in environ.values()))
    assert Redactor.from_environment(environ).redact(text) == text


@quiet
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=6), st.binary(max_size=200))
def test_any_environment_and_any_bytes_will_do(environ: dict[str, str], content: bytes) -> None:
    of = Redactor.from_environment(environ)
    assert of.redact_bytes(of.redact_bytes(content)) == of.redact_bytes(content)


@pytest.mark.parametrize(
    "bait",
    ["sk-", "eyJ", "a-sk-", "://a:", "Bearer a", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "://", "hf_a", "x://u"],
)
@pytest.mark.timeout(60)
def test_bait_of_megabytes_is_linear(bait: str) -> None:
    """A pattern that went back over its text would take hours."""
    text = bait * (2_000_000 // len(bait))
    assert len(redactor(**SECRETS).redact(text)) > len(text) / 3


def test_ledger_and_result_hold_no_secret(tmp_path: Path) -> None:
    """A name that is redacted is no name of a job: nothing may need to read it back while the run ends."""
    of = redactor(A_TOKEN="sword\nfish", B_TOKEN="swordfish")
    ledger = Ledger(tmp_path, redact=of.redact_value)
    ledger.append("seed_finished", seed=42, error="denied: sword\nfish", files={"a": ["sword\nfish"]})
    ledger.close()
    assert read_ledger(tmp_path)[0].fields["error"] == f"denied: {A}"
    made = job(name="swordfish")
    save_redacted(RunResult(made.name, "run", made, {}, (), judge(made, ()), 0.0, 1.0), of, tmp_path / RESULT)
    for name in (LEDGER, RESULT):
        assert "fish" not in (tmp_path / name).read_text()


# --- packages --------------------------------------------------------------------------------------


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """The folder of a finished run of two seeds, whose program is two lines; 'swordfish' is in each of its texts."""
    folder = tmp_path / "run"
    source = 'if __name__ == "__main__":\n    print("tiny perch")\n'
    made_of = job(seeds=[42, 1337], baseline__name="against swordfish")
    seeds = []
    for seed in made_of.seeds:
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True)
        (place / READABLE).write_text(source)
        (place / PROGRAM).write_bytes(pack(minified(source)))
        (place / ARTIFACT).write_bytes(b"\x00\xffweights of a trout\xff")
        digest, code_bytes = sha256(place / ARTIFACT), (place / PROGRAM).stat().st_size
        seeds.append(finished(seed, 1.1, export=export_result(sha256=digest, code_bytes=code_bytes)))
        strict_json.save(seeds[-1], place / RESULT)
        strict_json.save(
            DataRecord("/data/swordfish", "/data/a.model", "0" * 64, 9, 9, {"a.bin": "1" * 64}), place / DATA
        )
        (place / LOG).write_text('{"time": 1, "kind": "note", "message": "denied to swordfish"}\n')
    origin = {"git_commit": "0" * 40, "torch": "2.9.0+swordfish", "python": "3.11.0"}
    claim = judge(made_of, tuple(seeds))
    result = RunResult("three_seed", "run", made_of, origin, tuple(seeds), claim, 0.0, 1.0)
    strict_json.save(result, folder / RESULT)
    return folder


def test_a_package_holds_no_secret(finished_run: Path) -> None:
    everything = b"".join(path.read_bytes() for path in package(finished_run, finished_run / "all").iterdir())
    assert everything.count(b"swordfish") >= 8
    place = package(finished_run, finished_run / "clean", redactor=redactor(A_TOKEN="swordfish"))
    for path in place.iterdir():
        assert b"swordfish" not in path.read_bytes(), path.name
    for name in ("README.md", "submission.json", "record.json", "train_seed42.log", "requirements.txt"):
        assert "[redacted A_TOKEN]" in (place / name).read_text(), name
    assert load_record(place).data["42"].path == "[redacted A_TOKEN]"


@pytest.mark.parametrize(("secret", "name"), [("tiny perch", READABLE), ("of a trout", "model_seed1337.golf")])
def test_a_secret_in_what_stays_byte_for_byte_is_refused(finished_run: Path, secret: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        package(finished_run, redactor=redactor(A_TOKEN=secret))
    assert name in str(caught.value) and "A_TOKEN" in str(caught.value) and secret not in str(caught.value)
    assert not [path for path in finished_run.iterdir() if "package" in path.name]
