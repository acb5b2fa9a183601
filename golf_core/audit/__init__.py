"""The audit: measures a scorer from outside, as a black box, against the conditions of a valid score."""
