"""Checks of the eager layer and of refusals."""
