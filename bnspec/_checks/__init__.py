"""Checks of what public functions are given, before anything is computed."""

__all__: list[str] = []
