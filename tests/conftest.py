"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tests of faults leave a row each (`record_property`); here they become the table in the docs."""
    target = config.getoption("--faults-markdown")
    if target is None:
        return
    rows = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            found = dict(report.user_properties)
            if report.when == "call" and "fault" in found:
                held = "as expected" if outcome == "passed" else "**FAILED**"
                rows.append((found["fault"], found["said"], found["after"], held))
    head = Path(target).read_text(encoding="utf-8").partition("<!-- table -->")[0]
    lines = ["| fault | what is said | afterwards | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    Path(target).write_text(head + "<!-- table -->\n" + "\n".join(lines) + "\n", encoding="utf-8")
