"""Waivers: known failures with reasons, read from a file and applied to the records of a run."""
