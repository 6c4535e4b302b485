"""Virtual batches: which samples form a group, what becomes of a remainder, and which groups feed the state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from bnspec_conformance.probe._ask import Asker, RefusedCase, Unobservable, observed
from bnspec_conformance.probe._findings import Declared, Finding, Guess, Reading, read
from bnspec_conformance.probe._predict import SENSES, Moments, State, blend, deviations, merged, moments, normalized

__all__ = ["ghost"]

_Groups = list[list[int]]  # the samples of each group
_OLD = State(Fraction(5), Fraction(0), 0)


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
    """Two groups and one sample more."""
    size = _size(ask)
    samples = 2 * size + 1
    columns = _columns(samples)
    try:
        case = ask.case(columns, virtual_batch_size=size)
        y = ask.output(case)
    except RefusedCase:
        return Reading(("refused",))
    ways = {
        "a smaller last group": _collect(i // size for i in range(samples)),
        "a larger last group": _collect(min(i // size, 1) for i in range(samples)),
        "one group": [list(range(samples))],
    }
    return read(_outputs(columns, ways, case.config.epsilon), {"y": y}, "grouping")


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


def _fold(old: State, feeds: Sequence[tuple[Fraction, Fraction]], weight: Fraction) -> State:
    mean, var = old.mean, old.var
    for new_mean, new_var in feeds:
        mean, var = blend(mean, new_mean, weight), blend(var, new_var, weight)
    return State(mean, var)


def _plain_mean(parts: Sequence[Moments], correction: int) -> list[tuple[Fraction, Fraction]]:
    number = len(parts)
    means = sum((p.mean for p in parts), Fraction(0))
    return [(means / number, sum((p.var(correction) for p in parts), Fraction(0)) / number)]


#: Which groups feed the running state, in order.
_FEEDS: Mapping[str, Callable[[Sequence[Moments], int], list[tuple[Fraction, Fraction]]]] = {
    "first": lambda parts, c: [(parts[0].mean, parts[0].var(c))],
    "mean": _plain_mean,
    "merged": lambda parts, c: [(whole.mean, whole.var(c)) for whole in [merged(parts)]],
    "sequential": lambda parts, c: [(p.mean, p.var(c)) for p in parts],
    "last": lambda parts, c: [(parts[-1].mean, parts[-1].var(c))],
}
