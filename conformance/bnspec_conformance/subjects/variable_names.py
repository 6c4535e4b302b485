"""Names of a real layer's variables, found by the values that they hold and not by reading the names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["names_by_value"]


def names_by_value(variables: Mapping[str, Any], marks: Mapping[str, float]) -> dict[str, str]:
    """Find the variable that holds each field, by the value that was loaded into it.

    Parameters
    ----------
    variables : mapping of str to array
        All variables of a real layer, by its own names.
    marks : mapping of str to float
        Our fields and the value, different for each, that every element of the field was set to.

    Returns
    -------
    dict of str to str
        Only the fields that exactly one variable holds.

    Examples
    --------
    >>> names_by_value({"weight": [2.0, 2.0], "running_var": [5.0, 5.0]}, {"gamma": 2.0, "beta": 3.0, "var": 5.0})
    {'gamma': 'weight', 'var': 'running_var'}
    """
    found = {}
    for field, mark in marks.items():
        holders = [n for n, v in variables.items() if np.size(v) and bool(np.all(np.asarray(v, np.float64) == mark))]
        if len(holders) == 1:
            found[field] = holders[0]
    return found
