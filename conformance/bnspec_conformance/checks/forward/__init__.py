"""Checks of the forward operations."""
