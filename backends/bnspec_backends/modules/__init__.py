"""Modules of frameworks: layers that are at home in a framework's own tree of parameters."""
