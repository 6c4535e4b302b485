"""Plain calls: those whose two passes over x kernels may join, because nothing has to come between them."""

from typing import Any

from bnspec import BatchNormConfig, Saved

__all__ = ["is_plain", "is_plain_frozen", "is_plain_gradient"]


def is_plain(
    config: BatchNormConfig, *, state: Any = None, mask: Any = None, comm: Any = None, name: str = "batch_norm",
    masks: bool = False,
) -> bool:  # fmt: skip
    """Return whether nothing comes between the two passes of a forward operation: no ranks, mask or renorm.

    With ``masks`` kernels take masks in both passes.
    """
    return (masks or mask is None) and comm is None and config.renorm is None


def is_plain_gradient(
    saved: Saved, *, comm: Any = None, dmean: Any = None, dvar: Any = None, masks: bool = False
) -> bool:
    """Return whether nothing comes between the two passes of a gradient, and the batch's own statistics do.

    With ``masks`` kernels take masks in both passes, and counts of each channel.
    """
    if saved.frozen or comm is not None or saved.r is not None or dmean is not None or dvar is not None:
        return False
    return saved.divisor is not None and (masks or (saved.mask is None and saved.divisor.ndim == 1))


def is_plain_frozen(saved: Saved, dy: Any) -> bool:
    """Return whether a gradient is that of an affine map without a mask, whose two uses of dy one pass may join."""
    return saved.frozen and saved.mask is None and dy.dtype == saved.x.dtype
