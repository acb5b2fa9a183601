"""A run on Ray: the driver, a gang of ranks for each seed, and what can go wrong with them."""
