"""Numbers of the command line that several commands take."""

import argparse
import math

__all__ = ["count", "seconds"]

#: Larger numbers of cases are no use to anybody, and some places hold no larger ones.
_MOST = 2**31 - 1


def seconds(text: str) -> float:
    """Return a time for ``--deadline``."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= 1e6:  # beyond that, timers of the operating system overflow
        raise argparse.ArgumentTypeError(f"{text!r}; expected seconds, a number > 0 and at most 1e6")
    return found


def count(text: str) -> int:
    """Return a number of cases."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if not 1 <= found <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number >= 1 and <= {_MOST}")
    return found
