"""Checks of gradients, tangents and libraries' own differentiation."""
