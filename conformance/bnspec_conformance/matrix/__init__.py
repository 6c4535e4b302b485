"""Divergence table: every available subject against every clause, and its conventions as the probe measures them."""
