"""`golf audit`: somebody's scorer, or a run's own evaluation, as a black box."""
