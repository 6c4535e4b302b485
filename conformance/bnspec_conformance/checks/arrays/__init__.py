"""Checks of what arrays may be: their shapes and sizes, and where they lie in memory."""
