"""From the seeds' results to a verdict: statistics, judgement, tables."""
