"""Options of a module that torch's own batch normalization has not, and the configuration they make with torch's."""

import functools
from dataclasses import dataclass, fields
from typing import Any

from bnspec import BatchNormConfig, Renorm, dialects
from bnspec._errors import refusal

__all__ = ["Options", "configuration"]


@dataclass(frozen=True)
class Options:
    """Options beyond torch's; every field may be set as an attribute of the module.

    Attributes
    ----------
    virtual_batch_size : int, optional
        Samples per ghost group; must divide the batch [BN-GRP-2].
    ghost_source : {"first", "merged", "mean", "sequential"}
        Which groups the running statistics learn from [BN-RUN-8].
    renorm : Renorm, optional
        Batch renormalization.
    averaging : {"exponential", "debiased", "pooled"}
        How batches are averaged while ``momentum`` is a number; ``momentum=None`` is torch's cumulative average.
    correction : {0, 1}
        1, as torch: the running variance is ``m2/(count - 1)``.
    sync_weighting : {"count", "rank"}
        Whether a rank counts by its elements or as one [BN-SYNC-8].
    single_value : {"raise", "keep", "floor"}
        Fate of the running variance where a channel has one value [BN-RUN-4].
    nonfinite : {"propagate", "skip", "raise"}
        Fate of the running statistics at a batch with NaN or infinity [BN-RUN-10].
    frozen : bool
        Normalize by the running statistics while training too, and leave them as they are [BN-INF-5].
    """

    virtual_batch_size: int | None = None
    ghost_source: str = dialects.torch.ghost_source
    renorm: Renorm | None = None
    averaging: str = "exponential"
    correction: int = dialects.torch.correction
    sync_weighting: str = dialects.torch.sync_weighting
    single_value: str = dialects.torch.single_value
    nonfinite: str = "propagate"
    frozen: bool = False

    @classmethod
    def of(cls, given: dict[str, Any], who: str) -> "Options":
        """Make options of keywords, and refuse names that are none."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise refusal(
                TypeError,
                "BN-ERR-5",
                got=f"{who} with {', '.join(unknown)}",
                expected="torch's arguments, and of ours: " + ", ".join(sorted(known | {"sync"})),
                do="Correct the name. Gamma and beta are left out by affine=False or bias=False.",
            )
        return cls(**given)


@functools.lru_cache(maxsize=1024)
def configuration(
    axis: int, eps: float, momentum: float | None, scale: bool, center: bool, options: tuple[Any, ...]
) -> BatchNormConfig:
    """Return the configuration of a module.

    Parameters
    ----------
    axis : int
        Channel axis.
    eps : float
        torch's name of epsilon.
    momentum : float or None
        In torch's sense: the weight of the new value. None averages cumulatively.
    scale, center : bool
        Whether gamma and beta exist.
    options : tuple
        The fields of `Options`, in order.

    Raises
    ------
    ValueError, TypeError
        For options that exclude each other.

    Examples
    --------
    >>> plain = tuple(vars(Options()).values())
    >>> configuration(1, 1e-5, 0.25, True, True, plain).decay, configuration(1, 1e-5, None, True, True, plain).averaging
    (0.75, 'cumulative')
    """
    given = {f.name: v for f, v in zip(fields(Options), options, strict=True) if f.name != "frozen"}
    if momentum is None:
        given["averaging"] = "cumulative"
        if given["nonfinite"] == "skip":
            raise refusal(
                ValueError,
                "BN-RUN-10",
                got='nonfinite="skip" with momentum=None',
                expected="one count for all channels, which is what num_batches_tracked can hold",
                do='Give a number as momentum with averaging="debiased", or nonfinite="raise".',
            )
    return BatchNormConfig(
        axis=axis,
        epsilon=eps,
        decay=dialects.torch.decay if momentum is None else dialects.torch.decay_of(momentum),
        scale=scale,
        center=center,
        **given,
    )
