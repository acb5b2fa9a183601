"""How large the report of a full-size run is, how long it takes to write, and to open.

    python benchmarks/report_size.py            # three seeds, 1,893 chunks, 6,000 steps, made-up series

Opening is timed in headless Chromium (playwright), from the request to the load event, where there is a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> None:
    """Make the run, write its report, open it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the report here")
    arguments = parser.parse_args()
    sys.path[:0] = [str(TESTS / "orchestrator"), str(TESTS / "dashboards")]
    from full_size import full_run

    from dashboards.report import write_run_report

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "full-size"
        full_run(run)
        began = time.perf_counter()
        path = write_run_report(run, Path(folder) / "report.html")
        print(f"written in {time.perf_counter() - began:.2f} s: {path.stat().st_size:,} bytes")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is not None:
            print(f"opened in {opening_seconds(path, chromium):.2f} s (median of 5)")
        if arguments.out is not None:
            shutil.copy(path, arguments.out)


def opening_seconds(path: Path, chromium: str) -> float:
    """Median seconds from the request of the page to its load event, over five fresh pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        times = []
        for _ in range(5):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(path.as_uri(), wait_until="load")
            times.append(time.perf_counter() - began)
            page.close()
        browser.close()
    return sorted(times)[2]


if __name__ == "__main__":
    main()
