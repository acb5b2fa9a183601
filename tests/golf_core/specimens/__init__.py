"""Scorers that the audit is tried on: some with one violation planted, as many honest ones of unusual construction."""
