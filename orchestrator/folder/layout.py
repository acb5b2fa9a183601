"""Names of the files in a run's folder."""

from __future__ import annotations

# In the run's own folder; RESULT lies in each seed's folder too.
JOB, LEDGER, RESULT = "job.json", "ledger.jsonl", "result.json"

# In a seed's folder; the stages give their files the same names.
ARTIFACT, PROGRAM, CHECKPOINT = "model.golf", "train_gpt.py", "checkpoint.pt"
READABLE = "train_gpt_readable.py"
LOG, DATA, AUDIT = "log.jsonl", "data.json", "audit.json"
PREFLIGHT, BREAKDOWN = "preflight.json", "breakdown.json"
SNAPSHOT = "snapshot.bin"
