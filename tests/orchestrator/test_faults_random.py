"""A run that is stopped at random moments, again and again, and gone on with: it ends with the undisturbed figures."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fault_tools import Figures, Service, Tell, check_ledger, check_whole, job, no_orphans, signs_of_life

from golf_core.strict_json import load
from orchestrator.folder.results import RunResult

pytestmark = pytest.mark.ray

SEEDS = (42, 1337)
STOPS = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SIGNS = {
    "run_started": 1,
    "seed_started": 2,
    "gang_started": 2,
    "train_step": 30,
    "stage_finished": 3,
    "chunk": 12,
    "seed_finished": 1,
}
"""Signs of life in the order of their coming, and how many are waited for at the most."""
LONGEST_DELAY_S = 0.8
END_S = 180
FOUND_A_HOLE = 378404997
"""These moments once met a run between its last seed and its last word. GOLF_FAULTS_SEED draws others."""


@dataclass(frozen=True)
class Moment:
    """When a process is stopped, and how."""

    how: signal.Signals
    sign: str
    """What is waited for; what comes after it counts as well."""
    times: int
    delay_s: float


def draw(seed: int) -> list[Moment]:
    """Every sign is waited for at least once, in any order."""
    chance = random.Random(seed)
    # The last sign once only, and followed soon: it is easily too late, which costs another run.
    signs = [*SIGNS, *chance.choices([*SIGNS][:-1], k=STOPS - len(SIGNS))]
    chance.shuffle(signs)
    longest = dict.fromkeys(SIGNS, LONGEST_DELAY_S) | {[*SIGNS][-1]: LONGEST_DELAY_S / 10}
    return [
        Moment(how, sign, chance.randint(1, SIGNS[sign]), chance.uniform(0, longest[sign]))
        for sign, how in zip(signs, itertools.cycle(SIGNALS), strict=False)
    ]


def stop(service: Service, moment: Moment) -> bool:
    """Stop the process then; False if its run came to its end before that."""
    print(moment)  # noqa: T201
    order = [*SIGNS, "run_finished"]
    kinds = order[order.index(moment.sign) :]
    end = time.monotonic() + END_S
    while service.process.poll() is None:
        if sum(kind in kinds for _, kind in signs_of_life(service)) >= moment.times:
            time.sleep(moment.delay_s)
            break
        assert time.monotonic() < end, service.text
        time.sleep(0.05)
    service.process.send_signal(moment.how)
    code = service.ends(END_S)
    if service.entries()[-1].kind == "run_finished":
        return False
    if moment.how is signal.SIGKILL:
        assert code == -signal.SIGKILL, service.text
        return True
    assert code == 1, service.text
    assert "stopping: ending all ranks" in service.text
    said = service.text.splitlines()[-1]
    assert said == (
        f"error: stopped by the user; what was finished is kept; go on with: golf run --resume {service.run}"
    )
    assert "Traceback" not in service.text
    return True


def finish(service: Service, folder: Path, undisturbed: Figures) -> None:
    """What a run that ended must have, however often it was stopped."""
    if service.ends(200) != 0:  # stopped after its run's end: the figures are shown by the next one
        assert service.entries()[-1].kind == "run_finished", service.text
        service = Service(folder, "--resume", str(service.run), "--address", "local")
        assert service.ends() == 0, service.text
    check_whole(service.run, undisturbed, SEEDS)
    check_ledger(service.run, SEEDS)
    assert load(RunResult, service.run / "result.json").run_id == service.run.name
    assert no_orphans(folder), "processes are left"


@pytest.mark.timeout(1800)  # a dozen runs, one after another
@pytest.mark.slow
def test_stopped_at_random_moments(place: Path, undisturbed: Figures, tell: Tell) -> None:
    """Where a run ends before the last stop, the next run takes the rest of them."""
    seed = int(os.environ.get("GOLF_FAULTS_SEED") or FOUND_A_HOLE)
    print(f"GOLF_FAULTS_SEED={seed} draws these moments")  # noqa: T201
    moments = draw(seed)
    for number in itertools.count(1):
        folder = place / f"{number}"
        folder.mkdir()
        service = Service(folder, job(folder, SEEDS), "--address", "local")
        while moments and stop(service, moments[0]):
            if moments.pop(0).how is not signal.SIGKILL:
                stopped = service
            # Every other time the next process comes at once, into whatever the stopped one leaves behind.
            assert len(moments) % 2 or no_orphans(folder), "processes are left"
            service = Service(folder, "--resume", str(service.run), "--address", "local")
        finish(service, folder, undisturbed)
        if not moments:
            break
        # It was too late: in the next run this stop comes sooner.
        moments[0] = replace(moments[0], sign="run_started", times=1)
    tell(f"stopped at random moments: {STOPS}", stopped, "stopped by the user", "`--resume`: same figures")
