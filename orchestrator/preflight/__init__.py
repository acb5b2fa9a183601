"""Everything that can be known before a run spends anything: `golf check` and `golf plan`."""
