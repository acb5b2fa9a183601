"""Evaluation: sliding windows, test-time training and the hedge mixer, each token scored once."""
