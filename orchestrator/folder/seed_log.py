"""One seed's complete log as plain text, written anew from what the run recorded."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from golf_core.errors import ConfigError
from golf_core.events import Event
from golf_core.files import MAX_RECORD_BYTES, read_bytes
from golf_core.plain_log import config_lines, event_line, named, result_lines
from golf_core.results import DataRecord
from golf_core.strict_json import printable
from orchestrator.folder.results import SeedResult
from orchestrator.job.load import Job


def read_events(path: Path) -> list[Event]:
    """The events that a seed's log.jsonl holds. Raises `ConfigError` naming the file and line."""
    events = []
    try:
        lines = read_bytes(path, MAX_RECORD_BYTES).decode("utf-8").splitlines()
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ConfigError(f"{path}: {error.strerror}, so it is no seed's log; is this a run's folder?") from None
        raise ConfigError(f"{path}: missing or not text; the run's folder must hold each seed's log") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: missing or not text; the run's folder must hold each seed's log") from None
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            event = Event(kind=fields.pop("kind"), time=float(fields.pop("time")), fields=fields)
            if not isinstance(event.kind, str) or not math.isfinite(event.time):
                raise TypeError
            events.append(event)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{path}: line {number} is not an event; the log is damaged") from None
    return events


def seed_log(
    job: Job, provenance: Mapping[str, str], seed: SeedResult, data: DataRecord, events: list[Event]
) -> Iterator[str]:
    """The lines: environment, data, configuration; every event with its time since the first; the final figures."""
    assert seed.train is not None and seed.export is not None and seed.evaluate is not None
    yield f"run {job.name} seed:{seed.seed} world_size:{seed.train.world_size} device:{seed.train.device}"
    yield f"environment {named(provenance)}"
    yield f"data train_tokens:{data.train_tokens} val_tokens:{data.val_tokens}"
    yield f"data tokenizer:{data.tokenizer} sha256:{data.tokenizer_sha256}"
    for name, digest in data.checksums.items():
        yield f"data shard:{name} sha256:{digest}"
    yield from config_lines(job.config)
    for event in events:
        try:
            yield f"time:{event.time - events[0].time:.3f} {event_line(event)}"
        except (LookupError, RecursionError):
            raise ConfigError(
                f"the log of seed {seed.seed} holds a '{printable(event.kind)}' without its fields"
            ) from None
    yield from result_lines(seed.train, seed.export, seed.evaluate)
    yield (
        f"bytes weights:{seed.export.weight_bytes} code:{seed.export.code_bytes} total:{seed.export.total_bytes} "
        f"cap:{job.budgets.artifact_bytes}"
    )
