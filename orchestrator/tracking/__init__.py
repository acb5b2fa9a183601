"""MLflow: a copy of what the run's folder says."""
