"""The service around `golf_core`: job files, Ray, the ledger, MLflow, statistics and the claim."""
