"""Trials: one check on one subject, and the verdict."""
