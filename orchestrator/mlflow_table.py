"""The table of runs as it is meant to be read: a saved view of the experiment, which MLflow's pages offer by name."""

from __future__ import annotations

import json

VIEW = "golf"
"""Its key in addresses."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the experiment in which MLflow's own pages keep such a view."""
VIEW_QUERY = f"viewStateShareKey={VIEW}"
"""Of the address of the experiment's page, to see it in this view."""
VIEW_NAME = "Claims and seeds"
COLUMNS = {
    "tags.`verdict`": 110,
    "tags.`job`": 110,
    "tags.`seeds_finished`": 120,
    "metrics.`claim/bpb_mixture_mean`": 180,
    "metrics.`claim/bpb_mixture_sd`": 165,
    "metrics.`claim/gain_bpb`": 120,
    "metrics.`claim/p_margin`": 125,
    "metrics.`bpb/mixture`": 110,
    "metrics.`bpb/neural`": 110,
    "metrics.`artifact/total_bytes`": 150,
    "metrics.`train/seconds`": 120,
    "metrics.`eval/seconds`": 120,
    "metrics.`run/node_hours`": 130,
    "tags.`hardware`": 200,
    "tags.`git_commit`": 110,
}
"""In their order, with their widths in pixels: a run fills those of the claim, its seeds fill the others."""


def view_state(now: float) -> str:
    """The value of `VIEW_TAG`; `now`: seconds since the epoch. What it does not name stays as MLflow has it."""
    state = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
    }
    at_ms = int(now * 1000)
    return json.dumps({"name": VIEW_NAME, "createdAt": at_ms, "updatedAt": at_ms, "state": json.dumps(state)})
