"""Differentiation by a library: the one operation of it whose derivatives are the specification's formulas."""
