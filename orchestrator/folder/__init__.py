"""A run on disk: its files, its ledger, and what can be read from them."""
