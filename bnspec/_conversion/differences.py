"""The command ``bnspec diff-dialects``: each convention in which two frameworks differ, and what it does."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bnspec._conversion.example import SHAPE, Effect, effect, sync_effect, text_of_example
from bnspec._conversion.variance import FORMS
from bnspec._dialect import Dialect
from bnspec._dialects import dialects
from bnspec._table import table

__all__ = ["Difference", "differences", "run"]


class Difference(NamedTuple):
    """One convention in which two rows differ."""

    convention: str
    first: str
    second: str
    training: str
    inference: str


def differences(first: Dialect, second: Dialect) -> list[Difference]:
    """Return every convention in which two frameworks differ, numbers before names.

    Sizes compare the first framework's layer with one that differs from it in this convention alone.

    Examples
    --------
    >>> [found.convention for found in differences(dialects.flax, dialects.equinox)]
    ['channels, default', 'gamma and beta', 'name of gamma', 'argument of epsilon']
    """
    found = [*_numbers(first, second), *_grouped(first, second), *_shapes(first, second), *_stored(first, second)]
    return [one for one in found if one.first != one.second]


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    first, second = dialects[options.first], dialects[options.second]
    found = differences(first, second)
    if not found:
        print(f"{first.name} and {second.name} differ in no convention that is known.")
        return
    print(table([("convention", first.name, second.name, "training", "inference"), *found]))
    print(f"\n{text_of_example()} {second.name} is taken in one convention at a time.")


def _line(convention: str, values: Sequence[str], effects: tuple[str, str]) -> Difference:
    return Difference(convention, values[0], values[1], *effects)


def _told(size: Effect) -> tuple[str, str]:
    training, inference = (f"y by up to {value:.2g}" if value else "the same" for value in size)
    return training, inference


def _numbers(first: Dialect, second: Dialect) -> Iterator[Difference]:
    """Compare what a plain layer computes, and the argument that is called momentum."""
    own = first.config(rank=4)

    def against(**changed: Any) -> tuple[str, str]:
        return _told(effect(own, dataclasses.replace(own, **changed)))

    yield _line("epsilon, default", [f"{row.epsilon:g}" for row in (first, second)], against(epsilon=second.epsilon))
    yield _line("decay, default", [f"{row.decay:g}" for row in (first, second)], against(decay=second.decay))
    argument = first.momentum_of(first.decay)
    meant = second.decay_of(argument)
    words = [f"{row.storage.arguments['decay']} weighs the {row.momentum_weighs} value" for row in (first, second)]
    if first.momentum_weighs != second.momentum_weighs:
        training, inference = against(decay=meant)
        yield _line("momentum", words, (training, f"{inference} if {argument:g} stays {argument:g}"))
    averages = [row.averaging for row in (first, second)]
    changed = {"averaging": second.averaging} | ({"single_value": second.single_value} if own.correction else {})
    yield _line("running state", averages, against(**changed))
    for rank, about in ((4, ""), (2, ", other than rank 4")):
        old, new = (row.correction_of(rank=rank, dtype="float32") for row in (first, second))
        if rank == 2 and not (first.fused_correction or second.fused_correction):
            continue
        sizes = _told(effect(dataclasses.replace(own, correction=old), dataclasses.replace(own, correction=new)))
        yield _line(f"correction{about}", [FORMS[old], FORMS[new]], sizes)


def _grouped(first: Dialect, second: Dialect) -> Iterator[Difference]:
    """Compare what happens with one value, ghost batches and ranks."""
    own = first.config(rank=4)
    values = [_one_value(row) for row in (first, second)]
    yield _line("one value per channel", values, ("see left", "the same"))
    ghost = dataclasses.replace(own, virtual_batch_size=SHAPE[0] // 4, single_value="floor")
    other = dataclasses.replace(ghost, ghost_source=second.ghost_source)
    sources = [f"{row.ghost_source} of the groups" for row in (first, second)]
    yield _line("ghost batches feed", sources, _told(effect(ghost, other)))
    weights = [f"each {row.sync_weighting} counts alike" for row in (first, second)]
    weights = [text.replace("each count counts", "each element counts") for text in weights]
    other = dataclasses.replace(own, sync_weighting=second.sync_weighting)
    if first.sync_weighting != second.sync_weighting:
        yield _line("uneven ranks", weights, _told(sync_effect(own, other)))


def _one_value(row: Dialect) -> str:
    """Return what one element per channel feeds to the running variance, by the row's own configuration."""
    import numpy as np

    from bnspec._batch_norm import batch_norm
    from bnspec._init import init
    from bnspec._update import update_running

    config = dataclasses.replace(row.config(rank=4), axis=1, decay=0.0, averaging="exponential")
    x = np.ones((1, 1, 1, 1))
    params, state = init(config, channels=1, like=x)
    try:
        state = update_running(state, batch_norm(x, params, config)[1], config)
    except ValueError:
        return "is refused"
    return f"feeds the variance {float(state.var[0]):g}"


def _shapes(first: Dialect, second: Dialect) -> Iterator[Difference]:
    """Compare which axes and ranks a layer takes."""
    rank = len(SHAPE)
    channels = [f"axis {row.axis}: {SHAPE[row.axis]} channels" for row in (first, second)]
    text = f"other statistics of x of shape {SHAPE}" if SHAPE[first.axis] != SHAPE[second.axis] else "other axes of x"
    if first.axis % rank != second.axis % rank:
        yield _line("channels, default", channels, (text, text))
    for what, values in (
        ("ranks of x", [r.ranks for r in (first, second)]),
        ("axes", [r.axes for r in (first, second)]),
    ):
        words = ["any" if v is None else ", ".join(map(str, v)) for v in values]
        yield _line(what, words, ("others are refused", "others are refused"))


def _stored(first: Dialect, second: Dialect) -> Iterator[Difference]:
    """Compare names, and what is kept besides."""
    kinds = {"each": "each may be absent", "both": "both or neither", "always": "always there"}
    affine = [kinds[row.storage.affine] for row in (first, second)]
    yield _line("gamma and beta", affine, ("the same", "the same"))
    counts = [", ".join(row.storage.counters) or "none" for row in (first, second)]
    yield _line("stored count", counts, ("the same", "the same"))
    for field in ("gamma", "beta", "mean", "var"):
        names = [row.storage.averages.get(field, row.names[field]) for row in (first, second)]
        yield _line(f"name of {field}", names, ("the same", "the same"))
    for field in ("epsilon", "decay"):
        arguments = [row.storage.arguments[field] for row in (first, second)]
        yield _line(f"argument of {field}", arguments, ("the same", "the same"))
