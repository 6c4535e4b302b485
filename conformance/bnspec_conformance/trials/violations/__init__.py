"""Violations: what a wrong result is, and which clauses it breaks."""
