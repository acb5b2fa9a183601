"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

# Small models: threads that wait for each other on a busy machine make these tests ten times slower. Subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a script starts in its background is deaf to Ctrl-C, and so would be all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests

# Of the inputs that a test draws, a part by default; all of them in `make test-all` (`--hypothesis-profile thorough`).
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("quick")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of provided material beside the checkout, where there is one."""
    folder = REPO.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the folder 'shared' with the real data and the larger golden set is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    """The sample corpus, from the user's cache."""
    from golf_core.data.sample import build_sample, default_sample_folder

    return build_sample(default_sample_folder())


def pytest_configure(config: pytest.Config) -> None:
    """A test that is named runs, `slow` or not."""
    if config.option.markexpr == "not slow" and any("::" in word for word in config.args):
        config.option.markexpr = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start clusters come first: they take long, and at the end one alone would keep all waiting."""
    long = {item.path for item in items if item.get_closest_marker("ray") is not None}
    items.sort(key=lambda item: item.path not in long)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-markdown", metavar="FILE", help="write the table of faults tried and outcomes")
    parser.addoption("--specimens-markdown", metavar="FILE", help="write the table of what the audit was tried on")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tests of faults and of specimens leave a row each (`record_property`); here they become tables in the docs."""
    faults, specimens = config.getoption("--faults-markdown"), config.getoption("--specimens-markdown")
    if faults is not None:
        rows = [(f["fault"], f["said"], f["after"], held) for f, held in _recorded(terminalreporter, "fault")]
        _write_below(faults, _table(("fault", "what is said", "afterwards", ""), rows))
    if specimens is not None:
        found = _recorded(terminalreporter, "specimen")
        shown = [(f"`{f['specimen']}`", f["what"], f["expected"], f["found"], f["evidence"]) for f, _ in found]
        wrong = sum(held != "as expected" for _, held in found)
        said = f"**{wrong} not as expected**" if wrong else "all as expected"
        planted = [row for row in shown if row[2]]
        honest = [(*row[:2], row[3] or "nothing", row[4]) for row in shown if not row[2]]
        lines = [f"{len(found)} specimens, {said}.", "", f"## {len(planted)} planted violations", ""]
        lines += _table(("specimen", "what it plants", "expected", "found", "key evidence"), planted)
        lines += ["", f"## {len(honest)} honest specimens", ""]
        lines += _table(("specimen", "what it is", "found", "key evidence"), honest)
        _write_below(specimens, lines)


def _recorded(reporter: pytest.TerminalReporter, name: str) -> list[tuple[dict[str, str], str]]:
    """What tests that recorded a property `name` recorded, and how they ended."""
    found = []
    for outcome, held in (("passed", "as expected"), ("failed", "**FAILED**")):
        for report in reporter.getreports(outcome):
            properties = dict(report.user_properties)
            if report.when == "call" and name in properties:
                found.append((properties, held))
    return found


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return [*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)]


def _write_below(target: str, lines: Sequence[str]) -> None:
    """Replace what stands below the mark in a page."""
    head = Path(target).read_text(encoding="utf-8").partition("<!-- table -->")[0]
    Path(target).write_text(head + "<!-- table -->\n" + "\n".join(lines) + "\n", encoding="utf-8")
