"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Small models: threads that wait for each other on a busy machine make these tests ten times slower. Subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests

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
