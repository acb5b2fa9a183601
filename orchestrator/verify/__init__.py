"""Other people's runs, read from what they filed: every figure that is claimed against the logs beside it."""
