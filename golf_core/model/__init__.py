"""The transformer of the record."""
