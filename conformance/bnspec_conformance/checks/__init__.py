"""Checks: one test for each statement of the specification."""
