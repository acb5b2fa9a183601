"""The artifact: quantised weights in one compressed, checked file."""
