"""Token shards, the tokenizer and its byte counts, and the ways to get both: export and sample."""
