"""Training: data-parallel steps against the clock, Muon and AdamW, EMA, late QAT."""
