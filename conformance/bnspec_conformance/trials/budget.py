"""Budget of a check: the number of cases, the seed they are drawn from, and the time for each."""

import dataclasses

from bnspec_conformance.cases.inputs.sizes import Choice
from bnspec_conformance.subjects.time_limit import PATIENCE

__all__ = ["Budget"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """Effort that a check may spend.

    Attributes
    ----------
    examples : int or None
        Cases per check; None is the subject's own number.
    seed : int
        Seed of all drawn cases.
    shrink : bool
        Whether to search for the smallest case that fails, rather than to report the first.
    deadline : float
        Seconds that the subject may take for one case.
    sizes : {"none", "default", "large"}
        How many of the large cases are run.
    """

    examples: int | None = None
    seed: int = 0
    shrink: bool = True
    deadline: float = PATIENCE
    sizes: Choice = "default"
