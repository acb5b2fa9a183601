"""The folder that the challenge asks for, and its reproduction."""
