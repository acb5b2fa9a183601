"""Published shards: what to fetch, from where, and whether it is whole."""
