"""Runs: all checks on the subjects that are asked for, and what is written of them."""
