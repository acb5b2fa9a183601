"""Fetching the published export with the real hub client, from a hub on this machine."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from drawing import examples
from hub_server import COMMIT, HubServer, serving
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golf_core.data.manifest import MANIFEST, check_data, load_manifest
from golf_core.data.shards import read_shard, write_shard
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.errors import ConfigError, DataError, GolfError
from orchestrator.data import fetch as fetching
from orchestrator.data.command import fetch_command, progress_line
from orchestrator.data.fetch import Fetched, ensure_data, fetch
from orchestrator.data.hub import FetchProgress, HubError, Patience, RemoteFile
from orchestrator.data.plan import (
    INCOMING,
    PUBLISHED_MANIFEST,
    RECORD,
    choose_folder,
    choose_shards,
    choose_tokenizer,
    default_folder,
)
from orchestrator.job.sections import Fetch, fetch_of_options

VOCAB = 1024
FOLDER = "datasets/datasets/fineweb10B_sp1024"
TRAIN = [f"fineweb_train_{i:06d}.bin" for i in range(4)]
VAL = [f"fineweb_val_{i:06d}.bin" for i in range(2)]
MODEL = "fineweb_1024_bpe.model"
MODEL_PATH = f"datasets/tokenizers/{MODEL}"
HASTY = Patience(tries=3, first_wait=0.01, read_seconds=10)


@pytest.fixture(scope="module")
def export(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Path to content of a small export in the published layout."""
    scratch = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(7)
    files: dict[str, bytes] = {}
    for i, name in enumerate([*TRAIN, *VAL]):
        tokens = rng.integers(4, VOCAB, size=6000 + 10 * i).astype(np.uint16)
        tokens[::500] = 1
        write_shard(scratch / name, tokens)
        files[f"{FOLDER}/{name}"] = (scratch / name).read_bytes()
    files[MODEL_PATH] = (sample_folder / "tokenizer.model").read_bytes()
    files["datasets/manifest.json"] = json.dumps(published_manifest()).encode()
    return files


def published_manifest(**changes: Any) -> dict[str, Any]:
    """A manifest with the fields of the challenge's own, and some that nobody knows."""
    return {
        "version": "10B",
        "docs_meta": {"anything": [1, 2]},
        "tokenizers": [
            {"name": "sp_bpe_1024", "kind": "sentencepiece_bpe", "model_path": f"tokenizers/{MODEL}"},
            {"name": "pure_byte_260", "kind": "byte", "path": "tokenizers/fineweb_pure_byte_260.json"},
        ],
        "datasets": [
            {
                "name": "fineweb10B_sp1024",
                "tokenizer_name": "sp_bpe_1024",
                "path": "datasets/fineweb10B_sp1024",
                "stats": {"files_train": len(TRAIN), "files_val": len(VAL)},
            }
        ],
        **changes,
    }


@pytest.fixture
def hub(export: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in ("file_download", "utils._http"):  # the library waits seconds before it tries again
        monkeypatch.setattr(f"huggingface_hub.{module}.time", hasty)
    with serving(HubServer(dict(export))) as server:
        yield server


def spec_of(hub: HubServer, **changes: Any) -> Fetch:
    return Fetch(**{"train_shards": 3, "repo": hub.repo, "endpoint": hub.address, **changes})


def get(hub: HubServer, folder: Path, said: list[str] | None = None, **changes: Any) -> Fetched:
    options = {name: changes.pop(name) for name in ("force", "workers", "watch") if name in changes}
    say = (lambda line: None) if said is None else said.append
    return fetch(spec_of(hub, **changes), folder, say=say, patience=HASTY, **options)


def shown(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def sound(fetched: Fetched) -> None:
    record = check_data(fetched.folder, fetched.tokenizer, VOCAB, seq_len=64)
    assert set(record.checksums) == {*TRAIN[:3], *VAL}
    assert not (fetched.folder / INCOMING).exists()


# --- what is fetched ------------------------------------------------------------------------------


def test_a_fetched_folder_can_be_used_as_it_is(hub: HubServer, export: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[FetchProgress] = []
    fetched = get(hub, tmp_path / "data", watch=seen.append)
    sound(fetched)
    assert fetched.tokenizer == tmp_path / "data" / MODEL
    assert fetched.commit == COMMIT
    assert fetched.skipped == ()
    names = [*TRAIN[:3], *VAL, MODEL, PUBLISHED_MANIFEST]
    assert sorted(fetched.files) == sorted(names)
    assert shown(fetched.folder) == sorted([*names, MANIFEST, RECORD])
    assert fetched.bytes == sum(hub.served.values()) == seen[-1].done_bytes == seen[-1].total_bytes
    assert seen[-1].eta_seconds == 0 and all(progress.done_bytes <= progress.total_bytes for progress in seen)
    addresses = (f"/api/datasets/{hub.repo}/revision/main", f"/datasets/{hub.repo}/resolve/", "/large/")
    assert all(request.split()[1].startswith(addresses) for request in hub.requests)  # and nobody is told of it
    for name in [*TRAIN[:3], *VAL]:
        assert (fetched.folder / name).read_bytes() == export[f"{FOLDER}/{name}"]
    assert (fetched.folder / PUBLISHED_MANIFEST).read_bytes() == export["datasets/manifest.json"]


def test_the_manifest_says_what_was_fetched(
    hub: HubServer, sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SLICE_TOKENS", 7)
    folder = get(hub, tmp_path / "data").folder
    manifest = load_manifest(folder)
    assert (manifest.kind, manifest.tokenizer, manifest.vocab_size) == ("export", MODEL, VOCAB)
    assert COMMIT in manifest.source and hub.repo in manifest.source
    table = byte_table(load_tokenizer(sample_folder / "tokenizer.model"))
    for shard in manifest.shards:
        tokens = np.array(read_shard(folder / shard.file))
        assert shard.tokens == len(tokens)
        assert shard.documents == int((tokens == 1).sum()) > 10
        before = np.concatenate([[1], tokens[:-1]])
        assert shard.bytes == int(table.token_bytes(before, tokens).sum())


def test_a_second_call_fetches_nothing_unless_forced(hub: HubServer, tmp_path: Path) -> None:
    first = get(hub, tmp_path / "data")
    hub.served.clear()
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.glob("*.bin")}
    again = get(hub, tmp_path / "data")
    assert (again.files, again.bytes, again.skipped) == ((), 0, first.files)
    assert not hub.served
    assert before == {path.name: path.stat().st_mtime_ns for path in first.folder.glob("*.bin")}
    forced = get(hub, tmp_path / "data", force=True)
    assert (forced.files, forced.bytes, forced.skipped) == (first.files, first.bytes, ())
    sound(forced)


@pytest.mark.parametrize("later", [get, lambda hub, folder: ensure_data(spec_of(hub), folder)], ids=["asked", "a job"])
def test_more_shards_later_fetch_only_those(hub: HubServer, tmp_path: Path, later: Any) -> None:
    get(hub, tmp_path / "data", train_shards=1)
    again = later(hub, tmp_path / "data")
    assert again.files == tuple(TRAIN[1:3])
    sound(again)


def test_fewer_shards_than_there_are_is_refused(hub: HubServer, tmp_path: Path) -> None:
    fetched = get(hub, tmp_path / "data")
    with pytest.raises(DataError, match=r"1 shards beyond those asked for.*fineweb_train_000002.*--out"):
        get(hub, tmp_path / "data", train_shards=2)
    sound(fetched)


def test_a_wrong_file_is_fetched_anew_with_a_sentence(hub: HubServer, tmp_path: Path) -> None:
    folder = get(hub, tmp_path / "data").folder
    shard, small = (folder / TRAIN[1]).read_bytes(), (folder / PUBLISHED_MANIFEST).read_bytes()
    for name, content, fault in (
        (TRAIN[1], shard + b"x", "bytes, not"),
        (TRAIN[1], shard[:-3], "bytes, not"),
        (TRAIN[1], shard[:-1] + b"\xff", "has the SHA-256"),
        (PUBLISHED_MANIFEST, small.replace(b"10B", b"11B"), "has the git hash"),
    ):
        (folder / name).write_bytes(content)
        said: list[str] = []
        again = get(hub, folder, said)
        assert again.files == (name,)
        assert [line for line in said if name in line and fault in line and line.endswith("fetching it anew")]
        sound(again)


def test_shards_that_were_fetched_otherwise_are_kept(hub: HubServer, export: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in [TRAIN[0], VAL[1]]:
        (folder / name).write_bytes(export[f"{FOLDER}/{name}"])
    fetched = get(hub, folder)
    assert {TRAIN[0], VAL[1]} == set(fetched.skipped)
    sound(fetched)


def test_a_folder_with_other_data_is_left_alone(hub: HubServer, sample_folder: Path, tmp_path: Path) -> None:
    own, unreadable = tmp_path / "own", tmp_path / "unreadable"
    shutil.copytree(sample_folder, own)
    ensure_data(spec_of(hub), unreadable)
    (unreadable / TRAIN[0]).unlink()
    (unreadable / RECORD).write_text("{}")
    hub.requests.clear()
    for folder in (own, unreadable):
        before = shown(folder)
        for ask in (get, lambda hub, folder: ensure_data(spec_of(hub), folder)):
            with pytest.raises(DataError, match=r"holds other data.*--out"):
                ask(hub, folder)
        assert shown(folder) == before and not hub.requests


# --- connections that fail ------------------------------------------------------------------------


def test_a_dropped_connection_goes_on_from_where_it_was(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    path = f"{FOLDER}/{TRAIN[0]}"
    hub.drops[path] = [5000, 3000]
    fetched = get(hub, tmp_path / "data")
    sound(fetched)
    assert hub.served[path] == len(hub.files[path])  # no byte twice
    assert hub.ranges == [f"{TRAIN[0]} bytes=5000-", f"{TRAIN[0]} bytes=8000-"]
    assert fetched.bytes == sum(hub.served.values())


def test_a_failed_fetch_is_gone_on_with_by_the_next(hub: HubServer, tmp_path: Path) -> None:
    path = f"{FOLDER}/{TRAIN[2]}"
    hub.drops[path] = [4000] + [0] * 100
    folder = tmp_path / "data"
    with pytest.raises(HubError, match="goes on from there"):
        get(hub, folder, workers=1)
    assert shown(folder) == []  # nothing that looks whole
    hub.drops.clear()
    again = get(hub, folder)
    sound(again)
    assert TRAIN[2] in again.files and not {*TRAIN[:2], MODEL, PUBLISHED_MANIFEST} & set(again.files)


def test_a_killed_fetch_is_gone_on_with_by_the_next(hub: HubServer, tmp_path: Path) -> None:
    whole, cut = f"{FOLDER}/{TRAIN[0]}", f"{FOLDER}/{TRAIN[1]}"
    hub.drops[cut] = [6000] + [0] * 100
    program = (
        "import sys; from pathlib import Path; from orchestrator.data.fetch import fetch\n"
        "from orchestrator.job.sections import Fetch\n"
        "fetch(Fetch(train_shards=3, repo=sys.argv[1], endpoint=sys.argv[2]), Path(sys.argv[3]), workers=1)\n"
    )
    folder = tmp_path / "data"
    child = subprocess.Popen([sys.executable, "-c", program, hub.repo, hub.address, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while not hub.served[cut]:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert shown(folder) == []
    hub.drops.clear()
    sound(get(hub, folder))
    assert hub.served[whole] == len(hub.files[whole])  # it was whole and is not fetched again
    assert not list(folder.rglob("*.incomplete"))


@pytest.mark.parametrize("part", ["/revision/", "/resolve/", "/large/"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_and_recovers(hub: HubServer, tmp_path: Path, part: str, status: int) -> None:
    hub.statuses[part] = [status, status]
    sound(get(hub, tmp_path / "data"))


def test_a_hub_that_goes_on_failing_and_no_hub_at_all(hub: HubServer, tmp_path: Path) -> None:
    hub.statuses["/resolve/"] = [500] * 100
    with pytest.raises(HubError, match=rf"^{hub.address} fails with status 500; try again later"):
        get(hub, tmp_path / "data")
    with serving(HubServer({})) as gone:
        address = gone.address
    with pytest.raises(HubError, match=rf"^{address} cannot be reached .*check the network, or name a mirror"):
        get(hub, tmp_path / "data", endpoint=address)


@pytest.mark.parametrize("silent", ["listing", "bytes"])
def test_a_silent_hub_is_not_waited_for(hub: HubServer, tmp_path: Path, silent: str) -> None:
    if silent == "bytes":
        hub.gate = threading.Event()  # never set while the call runs
    else:
        hub.seconds_per_answer = 0.6
    hasty = Patience(tries=2, first_wait=0.01, read_seconds=0.2)
    with pytest.raises(HubError, match=r"cannot be reached.*check the network"):
        fetch(spec_of(hub), tmp_path / "data", patience=hasty)


# --- wrong contents -------------------------------------------------------------------------------


def test_wrong_bytes_are_fetched_once_more_and_no_more_often(hub: HubServer, tmp_path: Path) -> None:
    path = f"{FOLDER}/{TRAIN[0]}"
    hub.corrupt[path] = 9
    with pytest.raises(HubError, match=r"fineweb_train_000000.bin: has the SHA-256 .*twice in a row.*--endpoint"):
        get(hub, tmp_path / "data")
    assert shown(tmp_path / "data") == []
    hub.corrupt[path], hub.served[path] = 1, 0
    said: list[str] = []
    sound(get(hub, tmp_path / "data", said))
    assert hub.served[path] == 2 * len(hub.files[path])
    assert any(TRAIN[0] in line and "SHA-256" in line and "once more" in line for line in said)


def test_a_file_longer_than_listed_is_not_written(hub: HubServer, tmp_path: Path) -> None:
    path = f"{FOLDER}/{TRAIN[0]}"
    hub.listed_sizes[path] = 9000
    with pytest.raises(DataError, match=r"sends more than the 9,000 bytes that it lists"):
        get(hub, tmp_path / "data")
    assert all(file.stat().st_size <= 9000 for file in (tmp_path / "data" / INCOMING).glob(f"{TRAIN[0]}*"))


@pytest.mark.parametrize(
    ("error", "sentence"), [(HubError, "not a token shard"), (DataError, "holds the token id 1024, outside")]
)
def test_what_is_published_must_be_shards_of_the_tokenizer(
    hub: HubServer, tmp_path: Path, error: type[GolfError], sentence: str
) -> None:
    write_shard(tmp_path / "big.bin", np.full(5000, VOCAB, dtype=np.uint16))
    content = b"<html>" * 2000 if error is HubError else (tmp_path / "big.bin").read_bytes()
    hub.files[f"{FOLDER}/{TRAIN[1]}"] = content
    with pytest.raises(error, match=rf"fineweb_train_000001.bin: {sentence}"):
        get(hub, tmp_path / "data")
    assert shown(tmp_path / "data") == []


# --- refusals -------------------------------------------------------------------------------------

MANIFEST_PATH = "datasets/manifest.json"
NO_HUB = "does not answer as a hub does"


@pytest.mark.parametrize(
    ("state", "asked", "sentence"),
    [
        ({}, {"repo": "someone/else"}, r"^someone/else on http://\S+ does not exist or is private; check --repo"),
        ({}, {"revision": "v9"}, r"has no revision 'v9'; check --revision"),
        ({}, {"prefix": "elsewhere"}, r"has no 'elsewhere/datasets'; check --prefix"),
        ({}, {"variant": "sp2048"}, r"no export 'sp2048'; give one of those that are there as --variant: sp1024"),
        ({}, {"train_shards": 5}, r"has 4 training shards, not 5; lower --train-shards"),
        ({"token": "hf_right", "error_code": "GatedRepo"}, {}, r"is gated; ask for access"),
        ({"token": "hf_right"}, {}, r"does not exist or is private; .* set HF_TOKEN"),
        ({"listed_sizes": {MANIFEST_PATH: 1 << 40}}, {}, "manifest.json: listed with 1,099,511,627,776 bytes"),
        ({"listed_sizes": {f"{FOLDER}/{TRAIN[0]}": 1 << 40}}, {}, f"{TRAIN[0]}: listed with 1,099,511,627,776 bytes"),
        *(
            ({"extra_entries": [entry]}, {}, NO_HUB)
            for entry in ({}, {"rfilename": "x", "size": "x", "blobId": 1}, {"rfilename": "x"}, {"size": 1})
        ),
        ({"commit": {"not": "a hash"}}, {}, "check --endpoint"),
        ({"extra_entries": [{"rfilename": "x", "size": 1, "blobId": "0" * 40}] * 99}, {}, "more than 99 files"),
    ],
)
def test_what_is_refused(
    hub: HubServer,
    tmp_path: Path,
    state: dict[str, Any],
    asked: dict[str, Any],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.data.hub.MAX_FILES", 99)
    for name, value in state.items():
        setattr(hub, name, value)
    with pytest.raises(GolfError if sentence in (NO_HUB, "check --endpoint") else DataError, match=sentence) as caught:
        get(hub, tmp_path / "data", **asked)
    assert "\n" not in str(caught.value)
    assert not any(request.startswith("GET /large") for request in hub.requests)


def test_a_tokenizer_of_another_size_is_refused(hub: HubServer, export: dict[str, bytes], tmp_path: Path) -> None:
    hub.files = {path.replace("sp1024", "sp512").replace("_1024_", "_512_"): c for path, c in export.items()}
    with pytest.raises(DataError, match=r"the tokenizer has 1024 pieces"):
        get(hub, tmp_path / "data", variant="sp512")


def test_the_token_of_the_user_is_for_the_users_own_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    sound(get(hub, tmp_path / "open"))  # the address is one that a job names
    hub.token = "hf_right"
    with pytest.raises(DataError, match=rf"set HF_ENDPOINT to {hub.address} if HF_TOKEN is meant for it"):
        get(hub, tmp_path / "data")
    assert set(hub.tokens) == {None}
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    said: list[str] = []
    sound(get(hub, tmp_path / "data", said, endpoint=None))
    told = [*said, *(path.read_text(errors="replace") for path in (tmp_path / "data").glob("*.json"))]
    assert not any("hf_right" in text for text in told)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DataError, match=r"refuses the token in HF_TOKEN") as caught:
        get(hub, tmp_path / "data", endpoint=None)
    assert "hf_wrong" not in str(caught.value)


def test_a_full_disk_is_seen_before_or_said(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(path: Path, *how: Any, **named: Any) -> Any:
        if path.suffix == ".incomplete":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *how, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"the disk is full; free some space.*--out"):
        get(hub, tmp_path / "data")
    hub.requests.clear()
    monkeypatch.setattr("orchestrator.data.plan.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"bytes are still to be fetched and 1,000 are free; free some space"):
        get(hub, tmp_path / "data")
    assert not any("/large/" in request for request in hub.requests)


def test_a_place_that_cannot_be_written_and_no_worker(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(DataError, match="--out"):
            get(hub, place)
    with pytest.raises(ConfigError, match="--workers"):
        get(hub, tmp_path / "data", workers=0)


# --- hostile listings and manifests ---------------------------------------------------------------


def manifest_naming(name: str) -> bytes:
    tokenizers = [{"name": "sp_bpe_1024", "model_path": name}]
    datasets = [{"name": "fineweb10B_sp1024", "tokenizer_name": "sp_bpe_1024", "path": name}]
    return json.dumps({"tokenizers": tokenizers, "datasets": datasets}).encode()


@pytest.mark.parametrize(
    "content", [None, b"[", manifest_naming("../../evil.model"), manifest_naming("/etc/evil_1024.model")], ids=range(4)
)
def test_any_manifest_will_do_and_leads_nowhere(hub: HubServer, tmp_path: Path, content: bytes | None) -> None:
    del hub.files[MANIFEST_PATH]
    if content is not None:
        hub.files[MANIFEST_PATH] = content
    fetched = get(hub, tmp_path / "in" / "data")
    assert fetched.tokenizer.name == MODEL
    sound(fetched)
    assert (PUBLISHED_MANIFEST in shown(fetched.folder)) == (content is not None)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [".data.fetch.lock", "data"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "path",
    [
        f"{FOLDER}/../../../../fineweb_train_000009.bin",
        "/tmp/fineweb_train_000009.bin",
        "fineweb_val_000009.bin",
        f"{FOLDER}/deeper/fineweb_val_000009.bin",
        f"{FOLDER}/.bashrc",
    ],
)
def test_a_listing_leads_nowhere(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.extra_entries = [{"rfilename": path, "blobId": "0" * 40, "size": 5000}]
    sound(get(hub, tmp_path / "data"))


def listing(*names: str, size: int = 5000) -> dict[str, RemoteFile]:
    return {name: RemoteFile(f"x/{name}", size, None, None) for name in names}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([MODEL, "fineweb10B_sp1024"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["datasets", "tokenizers", "name", "path", "tokenizer_name", "x"]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=examples(60), deadline=None)
@example({"tokenizers": [{"name": []}]})
@example(json.loads(manifest_naming("..\\evil_1024.model")))
@example(json.loads(manifest_naming("a\x00_1024.model")))
@example(json.loads(manifest_naming("e" * 4000 + ".model")))
@given(json_values)
def test_a_manifest_chooses_only_what_is_listed(manifest: Any) -> None:
    chosen = choose_tokenizer(Fetch(), "fineweb10B_sp1024", listing(MODEL, "fineweb_512_bpe.model"), manifest)
    assert chosen.name == MODEL


def test_the_manifest_decides_between_tokenizers() -> None:
    both = listing("fineweb_1024_bpe.model", "new_1024.model", "fineweb_10240_bpe.model")
    with pytest.raises(DataError, match=r"fineweb_1024_bpe.model and new_1024.model could each be the tokenizer"):
        choose_tokenizer(Fetch(), "fineweb10B_sp1024", both, None)
    manifest = published_manifest(tokenizers=[{"name": "sp_bpe_1024", "file": "/root/made/new_1024.model"}])
    assert choose_tokenizer(Fetch(), "fineweb10B_sp1024", both, manifest).name == "new_1024.model"
    with pytest.raises(DataError, match=r"no SentencePiece model for fineweb10B_byte260 .*choose another --variant"):
        choose_tokenizer(Fetch(variant="byte260"), "fineweb10B_byte260", listing(MODEL), published_manifest())


def test_which_folder_is_meant() -> None:
    assert [Fetch(variant=v).vocab_size for v in ("sp1024", "fineweb10B_sp512", "byte260")] == [1024, 512, None]
    folders = ("fineweb10B_sp1024", "fineweb100B_sp1024", "fineweb10B_sp10240", "../sp512")
    with pytest.raises(DataError, match=r"fineweb10B_sp1024 and fineweb100B_sp1024 are all exports of 'sp1024'"):
        choose_folder(Fetch(), folders)
    assert choose_folder(Fetch(variant="fineweb100B_sp1024"), folders) == "fineweb100B_sp1024"
    assert choose_folder(Fetch(variant="sp10240"), folders) == "fineweb10B_sp10240"
    with pytest.raises(DataError, match="no export 'sp512'"):
        choose_folder(Fetch(variant="sp512"), folders)


def test_a_gap_between_shards_is_refused() -> None:
    with pytest.raises(DataError, match=r"a train shard is missing among the first 2"):
        choose_shards(Fetch(train_shards=2), "f", listing(TRAIN[0], TRAIN[2], TRAIN[3], *VAL))
    with pytest.raises(DataError, match=r"a val shard is missing"):
        choose_shards(Fetch(train_shards=2), "f", listing(*TRAIN, VAL[0], "fineweb_val_000002.bin"))
    for there, chosen in (([*TRAIN[:2], TRAIN[3]], TRAIN[:2]), (TRAIN[1:], TRAIN[1:3])):  # counted from 0, from 1
        shards = choose_shards(Fetch(train_shards=2), "f", listing(*there, *VAL))
        assert [file.name for file in shards.train] == chosen


# --- several processes, and jobs ------------------------------------------------------------------


def test_two_at_once_fetch_once(hub: HubServer, tmp_path: Path) -> None:
    hub.gate = threading.Event()
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ensure_data, spec_of(hub), tmp_path / "data", say=said.append) for _ in range(2)]
        deadline = time.monotonic() + 30
        while not any("waiting for it" in line for line in said) and time.monotonic() < deadline:
            time.sleep(0.01)
        hub.gate.set()
        done = sorted((job.result() for job in jobs), key=lambda fetched: fetched.bytes)
    assert any("waiting for it" in line for line in said)
    assert done[0].bytes == 0 and done[1].bytes == sum(hub.served.values())
    assert hub.served[f"{FOLDER}/{TRAIN[0]}"] == len(hub.files[f"{FOLDER}/{TRAIN[0]}"])
    assert done[0].tokenizer == done[1].tokenizer


def test_data_that_is_there_needs_no_hub(hub: HubServer, sample_folder: Path, tmp_path: Path) -> None:
    first = ensure_data(spec_of(hub), tmp_path / "data")
    hub.requests.clear()
    again = ensure_data(spec_of(hub, endpoint="http://127.0.0.1:9"), tmp_path / "data")
    assert (again.folder, again.tokenizer, again.bytes) == (first.folder, first.tokenizer, 0)
    sound(again)
    own = sample_folder / "tokenizer.model"  # the user's own shards are taken as they are
    found = ensure_data(spec_of(hub), sample_folder, own)
    assert (found.folder, found.tokenizer, found.commit) == (sample_folder, own, "")
    assert not hub.requests


def test_data_that_is_not_whole_is_completed(hub: HubServer, tmp_path: Path) -> None:
    folder = ensure_data(spec_of(hub), tmp_path / "data").folder
    for harm in ((folder / TRAIN[0]).unlink, (folder / MODEL).unlink, lambda: os.truncate(folder / VAL[0], 3000)):
        harm()
        sound(ensure_data(spec_of(hub), folder))


def test_a_move_that_was_cut_off_never_looks_whole(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    real = Path.replace

    def cut_off(self: Path, target: Path) -> Path:
        if target.parent == folder and target.name == VAL[0]:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        get(hub, folder)
    monkeypatch.undo()
    assert (folder / TRAIN[0]).exists()
    with pytest.raises(DataError):
        check_data(folder, folder / MODEL, VOCAB, seq_len=64)
    served = dict(hub.served)
    sound(ensure_data(spec_of(hub), folder, folder / MODEL))
    assert hub.served == served


def test_default_folders_differ_where_the_data_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    specs = [Fetch(), Fetch(train_shards=8), Fetch(repo="a/b"), Fetch(variant="sp512"), Fetch(revision="a/b")]
    folders = {default_folder(spec) for spec in specs}
    assert len(folders) == len(specs)
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("train_shards", 0, "got 0; give a whole number"),
        ("variant", "../x", "got '../x'; give the name of an export"),
        ("repo", "nobody", "got 'nobody'; give a dataset's name"),
        *(("prefix", value, "") for value in ("a/../b", "/etc")),
        ("revision", "-x", ""),
        ("endpoint", "ftp://hub", "got 'ftp://hub', which is no address"),
        *(("endpoint", value, "") for value in ("https://user:secret@hub", "https://hub:99999")),
    ],
)
def test_options_that_cannot_be(option: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--{option.replace('_', '-')}: {sentence}")):
        fetch_of_options(**{option: value})


def test_the_command_and_its_line_of_progress(hub: HubServer, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(fetch_command)
    options = ["--train-shards", "3", "--repo", hub.repo, "--endpoint", hub.address, "--out", str(tmp_path / "data")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert "fetched 7 files" in result.output
    assert f"data.path: {tmp_path / 'data'}" in result.output
    assert f"data.tokenizer: {tmp_path / 'data' / MODEL}" in result.output
    assert "fetched 0 files, 0 bytes; 7 were there and right" in CliRunner().invoke(app, options).output
    half = FetchProgress(done_bytes=100_000_000, total_bytes=200_000_000, bytes_per_second=2e6)
    assert progress_line(half) == "fetch 100.0/200.0 MB (50%)  2.0 MB/s  ETA 50.0 s"
    assert progress_line(FetchProgress(0, 10, 0.0)).endswith("ETA unknown")
