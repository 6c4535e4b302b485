"""Virtual batches: which samples form a group, what becomes of a remainder, and which groups feed the state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from bnspec_conformance.probe.answers import RefusedCase, Unobservable, observed
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Finding, Guess, Reading, read
from bnspec_conformance.probe.predict import (
    SENSES,
    ExactMoments,
    ProbeState,
    blend,
    deviations,
    merged,
    moments,
    normalized,
)

__all__ = ["ghost"]

_Groups = list[list[int]]  # the samples of each group
_OLD = ProbeState(Fraction(5), Fraction(0), 0)


def ghost(ask: Asker) -> Iterator[Finding]:
    """Measure everything about virtual batches."""
    ask.group = "ghost"
    yield ask.judge("grouping", Declared(("contiguous",), "BN-GRP-2"), _grouping)
    yield ask.judge("remainder", Declared(("refused",), "BN-GRP-3"), _remainder)
    for suffix, value, declared in ask.choices("ghost_source"):
        yield ask.judge("ghost source" + suffix, declared, _source, "ghost source", ghost_source=value)
    yield ask.judge("correction (ghost)", ask.row_correction(size=2), _source, "correction")


def _size(ask: Asker) -> int:
    allowed = ask.subject.scope.options.get("virtual_batch_size", (2,))
    sizes = [size for size in allowed if size is not None and size > 1]
    if not sizes:
        raise Unobservable("it has no groups of more than one sample")
    return int(sizes[0])


def _columns(samples: int) -> tuple[list[float], list[float]]:
    """Squares, so that no two groups of any grouping have the same statistics."""
    return [float(i * i) for i in range(samples)], [float((samples - i) ** 2) for i in range(samples)]


def _groupings(samples: int, size: int) -> Mapping[str, _Groups]:
    number = samples // size
    by: Mapping[str, Callable[[int], int]] = {
        "contiguous": lambda i: i // size,
        "interleaved": lambda i: i % number,
        "interleaved by the size": lambda i: i % size,
        "one group": lambda i: 0,
    }
    return {name: _collect(map(of, range(samples))) for name, of in by.items()}


def _collect(group_of: Iterator[int]) -> _Groups:
    groups: dict[int, list[int]] = {}
    for sample, group in enumerate(group_of):
        groups.setdefault(group, []).append(sample)
    return [groups[key] for key in sorted(groups)]


def _grouping(ask: Asker) -> Reading:
    size = _size(ask)
    columns = _columns(3 * size)
    case = ask.case(columns, virtual_batch_size=size)
    guesses = _outputs(columns, _groupings(3 * size, size), case.config.epsilon)
    return read(guesses, {"y": ask.output(case)}, "grouping")


def _remainder(ask: Asker) -> Reading:
    """Batches of two groups and a remainder of every size, and batches smaller than one group.

    A refusal counts where the batch without the remainder is accepted, and where not every remainder that is refused is
    one of a single sample: a subject may refuse one value per channel, whichever group it is in.
    """
    size = _largest(ask)
    fits: list[set[str]] = []
    said, refused, alone = [], [], True
    for samples in [*range(2 * size + 1, 3 * size), *range(1, size)]:
        columns = _columns(samples)
        case = ask.case(columns, virtual_batch_size=size)
        try:
            y = ask.output(case)
        except RefusedCase as refusal:
            ask.accepts(ask.case(_columns(2 * size), virtual_batch_size=size), refusal)
            refused.append(str(samples))
            alone &= samples % size == 1
            continue
        found = read(_outputs(columns, _ways(samples, size), case.config.epsilon), {"y": y}, "grouping")
        fits.append(set(found.fits))
        said.append(f"{samples} samples: {found.text}")
    if not fits:
        return Reading(("refused",)) if not alone else _refused_alone(ask, size)
    note = f"groups of {size}, refused for {' and '.join(refused)} samples" if refused else ""
    common = [way for way in _ways(size, size) if all(way in fit for fit in fits)]
    return Reading(tuple(common), note if common else "; ".join([f"groups of {size}", *said]))


def _refused_alone(ask: Asker, size: int) -> Reading:
    """Measure with a remainder of one sample; it is refused as a remainder if one sample alone is accepted."""
    try:
        ask.run(ask.case(_columns(1)))
    except (RefusedCase, Unobservable):
        return Reading(
            ("refused", "a smaller last group"), f"groups of {size} leave one sample, which it takes nowhere"
        )
    return Reading(("refused",))


def _largest(ask: Asker) -> int:
    """Return a size with remainders of several sizes, if there is one; 5 is the first that tells all ways apart."""
    allowed = ask.subject.scope.options.get("virtual_batch_size", (5,))
    sizes = sorted(int(size) for size in allowed if size is not None and 1 < size <= 16)
    return next((size for size in sizes if size >= 5), sizes[-1]) if sizes else _size(ask)


def _ways(samples: int, size: int) -> Mapping[str, _Groups]:
    """Measure the treatment of a number of samples that the size does not divide."""
    number = -(-samples // size)  # groups, the last of them perhaps not full
    chunk = -(-samples // number)
    full = max(samples // size, 1)
    by: Mapping[str, Callable[[int], int]] = {
        "a smaller last group": lambda i: i // size,
        "a larger last group": lambda i: min(i // size, full - 1),
        "one group": lambda i: 0,
        "chunks of one size": lambda i: i // chunk,  # torch.chunk
        "groups as equal as can be": lambda i: _even(i, samples, number),  # numpy.array_split
    }
    return {name: _collect(map(of, range(samples))) for name, of in by.items()}


def _even(sample: int, samples: int, number: int) -> int:
    """Return the group of a sample where the first groups have one sample more than the others."""
    more, each = samples % number, samples // number
    longer = more * (each + 1)
    return sample // (each + 1) if sample < longer else more + (sample - longer) // each


def _outputs(columns: Sequence[Sequence[float]], ways: Mapping[str, _Groups], epsilon: float) -> Iterator[Guess]:
    for (name, groups), deviation in product(ways.items(), deviations(epsilon)):
        y = []
        for column in columns:
            row = [0.0] * len(column)
            for group in groups:
                part = moments([column[i] for i in group])
                values = normalized([column[i] for i in group], part.mean, deviation(part))
                for i, value in zip(group, values, strict=True):
                    row[i] = value
            y.append(row)
        yield Guess({"grouping": name}, {"y": y})


def _source(ask: Asker, about: str, **wanted: Any) -> Reading:
    size = _size(ask)
    columns = _columns(3 * size)
    case = ask.case(columns, state=_OLD, virtual_batch_size=size, averaging="exponential", **wanted)
    ways = _groupings(3 * size, size)
    decay = Fraction(case.config.decay)
    guesses = []
    for groups, sense, correction in product(ways.values(), SENSES.values(), (0, 1)):
        if len(groups) == 1:
            continue
        fed = [[moments([column[i] for i in group]) for group in groups] for column in columns]
        for name, feed in _FEEDS.items():
            new = [_fold(_OLD, feed(parts, correction), sense(decay)) for parts in fed]
            state = {"mean": [float(s.mean) for s in new], "var": [float(s.var) for s in new]}
            guesses.append(Guess({"ghost source": name, "correction": str(correction)}, state))
    return read(guesses, observed(ask.state(case)), about)


def _fold(old: ProbeState, feeds: Sequence[tuple[Fraction, Fraction]], weight: Fraction) -> ProbeState:
    mean, var = old.mean, old.var
    for new_mean, new_var in feeds:
        mean, var = blend(mean, new_mean, weight), blend(var, new_var, weight)
    return ProbeState(mean, var)


def _plain_mean(parts: Sequence[ExactMoments], correction: int) -> list[tuple[Fraction, Fraction]]:
    number = len(parts)
    means = sum((p.mean for p in parts), Fraction(0))
    return [(means / number, sum((p.var(correction) for p in parts), Fraction(0)) / number)]


#: Which groups feed the running state, in order.
_FEEDS: Mapping[str, Callable[[Sequence[ExactMoments], int], list[tuple[Fraction, Fraction]]]] = {
    "first": lambda parts, c: [(parts[0].mean, parts[0].var(c))],
    "mean": _plain_mean,
    "merged": lambda parts, c: [(whole.mean, whole.var(c)) for whole in [merged(parts)]],
    "sequential": lambda parts, c: [(p.mean, p.var(c)) for p in parts],
    "last": lambda parts, c: [(parts[-1].mean, parts[-1].var(c))],
}
