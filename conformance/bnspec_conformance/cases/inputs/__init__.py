"""Inputs of cases: hard families, sizes, layouts in memory, and which of them a search must have met."""
