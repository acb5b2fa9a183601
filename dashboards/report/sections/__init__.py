"""The sections of a report, each a function from a run's data to words, tables and charts."""
