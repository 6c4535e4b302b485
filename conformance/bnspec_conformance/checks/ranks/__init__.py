"""Checks of joined ranks."""
