"""The probe looks at numbers where something is accepted, and at what is legal beside it where something is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from wrong_layers import OURS, Wrong, configured, differing, each, measured

from bnspec_conformance.cases.case import Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope

FLOAT32 = Scope(dtypes=("float32",), world=1)
PLAIN = Scope(dtypes=("float32",), world=1, options={"averaging": ("exponential",)})


def alone(case: Any, given: Any) -> Any:
    """Whether a training call has one value per channel."""
    return case.mode == "batch" and given.x.size == case.channels and given.mask is None


def on_one_value(change: Any) -> Any:
    """Answer something else for one value per channel."""
    return each(lambda case, given, rank: change(case, given, rank) if alone(case, given) else rank)


# --- one value per channel --------------------------------------------------------------------------------------------


def identity(case: Any, given: Any, rank: Any) -> Any:
    return dataclasses.replace(rank, y=given.x.copy(), state=case.state)


def test_a_subject_that_returns_x_for_one_value_is_told_from_one_that_normalizes() -> None:
    found = differing(Wrong(answer=on_one_value(identity), scope=PLAIN), "edges")
    assert found == {
        "one value, no state": "accepted, returns x",
        "one value, with a state": "accepted, returns x, the state stays",
    }


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (lambda x: x * 0, "accepted, y = 0"),
        (lambda x: x * np.nan, "accepted, y is not a number"),
        (lambda x: x * np.float32([[3, 5]]) + np.float32([[7, -2]]), "accepted, y = gamma*x + beta"),
        (lambda x: x + 1, "none of the known"),
    ],
)
def test_other_answers_to_one_value(y: Callable[..., Any], told: str) -> None:
    def change(case: Any, given: Any, rank: Any) -> Any:
        return dataclasses.replace(rank, y=y(given.x))

    assert differing(Wrong(answer=on_one_value(change), scope=PLAIN), "edges")["one value, no state"] == told


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (lambda old, new: old, "accepted, y = beta, the state stays"),
        (
            lambda old, new: {"mean": new["mean"], "var": new["var"] * np.nan},
            "accepted, y = beta, the variance is lost",
        ),
        (
            lambda old, new: {"mean": new["mean"], "var": new["var"] * np.inf},
            "accepted, y = beta, the variance is lost",
        ),
        (lambda old, new: {"mean": new["mean"] + 1, "var": new["var"]}, "none of the known"),
    ],
)
def test_what_one_value_does_to_the_state(state: Callable[..., Any], told: str) -> None:
    def change(case: Any, given: Any, rank: Any) -> Any:
        return rank if case.state is None else dataclasses.replace(rank, state=state(case.state, rank.state))

    found = differing(Wrong(answer=on_one_value(change), scope=PLAIN), "edges")
    assert found == {"one value, with a state": told}


def test_one_value_by_the_running_statistics() -> None:
    def answer(case: Any, outcome: Any) -> Any:
        if case.state is None or not alone(case, case.ranks[0]):
            return outcome
        y = OURS.run(dataclasses.replace(case, mode="inference")).ranks[0].y
        return Outcome((dataclasses.replace(outcome.ranks[0], y=y),))

    found = differing(Wrong(answer=answer, scope=PLAIN), "edges")
    assert found == {"one value, with a state": "accepted, y by the running statistics"}


def test_one_value_without_parameters_is_measured_all_the_same() -> None:
    scope = Scope(dtypes=("float32",), world=1, options={"scale": (False,), "center": (False,)})
    assert measured(Wrong(scope=scope), "edges")["one value, no state"].verdict == "same"
    found = differing(Wrong(answer=on_one_value(identity), scope=scope), "edges")
    assert found["one value, no state"] == "accepted, returns x"


# --- a refusal for another reason -------------------------------------------------------------------------------------


class Refusing(Wrong):
    """Refuses the cases that ``refused`` names."""

    error = ValueError("not this one")

    def run(self, case: Any) -> Any:
        if self.refused(case):  # type: ignore[attr-defined]
            raise self.error
        return super().run(case)


def test_a_subject_that_refuses_everything_refuses_nothing_in_particular() -> None:
    found = measured(Refusing(refused=lambda case: case.mode == "batch", scope=FLOAT32), "ghost", "edges")
    for name in ("remainder", "one value, no state", "one value, with a state", "nonfinite (asked: raise)"):
        assert (found[name].verdict, found[name].measured) == ("differs", "none of the known"), name
        assert "and what is legal beside it as well: ValueError: not this one" in found[name].note


@pytest.mark.parametrize("error", [NotImplementedError("some day"), None])
def test_what_breaks_does_not_refuse(error: Any) -> None:
    from bnspec_conformance.subjects import ProgramError

    class Breaking(Refusing):
        pass

    Breaking.error = error or ProgramError("it ended with status 139")  # type: ignore[assignment]
    spoilt = Breaking(refused=lambda case: np.isnan(case.ranks[0].x).any(), scope=FLOAT32)
    finding = measured(spoilt, "edges")["nonfinite (asked: raise)"]
    assert (finding.verdict, finding.measured) == ("differs", "none of the known")
    assert finding.note.startswith("it broke: ")


def test_a_refusal_of_empty_batches_is_one_of_empty_batches() -> None:
    empty = Refusing(refused=lambda case: case.ranks[0].x.size == 0, scope=PLAIN)
    assert measured(empty, "edges")["state, empty batch"].measured == "refused"
    every = Refusing(refused=lambda case: case.state is not None and case.update, scope=PLAIN)
    assert measured(every, "edges")["state, empty batch"].measured == "none of the known"


# --- remainders -------------------------------------------------------------------------------------------------------


def grouped(groups_of: Any, least: int = 1) -> Any:
    """Normalize the groups that ``groups_of(samples, size)`` gives; refuse those of fewer samples than `least`."""

    class Grouped(Wrong):
        def run(self, case: Any) -> Any:
            size = case.config.virtual_batch_size
            if size is None or case.mode != "batch" or case.state is not None:
                return super().run(case)
            x, plain = case.ranks[0].x, configured(virtual_batch_size=None)(case)
            parts = []
            for samples in groups_of(len(x), size):
                if samples.stop - samples.start < least:
                    raise ValueError("Expected more than 1 value per channel when training")
                one = dataclasses.replace(plain, ranks=(dataclasses.replace(case.ranks[0], x=x[samples]),))
                parts.append(OURS.run(one).ranks[0].y)
            return Outcome((RankOutcome(y=np.concatenate(parts)),))

    return Grouped


def runs(lengths: Any) -> list[Any]:
    ends = np.cumsum(lengths)
    return [slice(int(end - n), int(end)) for n, end in zip(lengths, ends, strict=True)]


def smaller(samples: Any, size: int) -> Any:
    return runs([size] * (samples // size) + ([samples % size] if samples % size else []))


def larger(samples: Any, size: int) -> Any:
    full = max(samples // size, 1)
    return runs([*[size] * (full - 1), samples - size * (full - 1)])


def chunks(samples: Any, size: int) -> Any:  # what torch.chunk(x, ceil(N/V)) gives
    number = -(-samples // size)
    return smaller(samples, -(-samples // number))


def even(samples: Any, size: int) -> Any:
    return runs([len(part) for part in np.array_split(np.arange(samples), -(-samples // size))])


@pytest.mark.parametrize(
    ("groups_of", "told"),
    [
        (smaller, "a smaller last group"),
        (larger, "a larger last group"),
        (chunks, "chunks of one size"),
        (even, "groups as equal as can be"),
    ],
)
@pytest.mark.parametrize("least", [1, 2])
def test_every_way_with_a_remainder_is_told_whether_or_not_one_sample_is_refused(
    groups_of: Any, told: str, least: int
) -> None:
    found = measured(grouped(groups_of, least)(scope=FLOAT32), "ghost")["remainder"]
    assert (found.verdict, found.measured) == ("differs", told)
    refused = [n for n in (11, 12, 13, 14, 1, 2, 3, 4) if any(s.stop - s.start < least for s in groups_of(n, 5))]
    assert found.note == (f"groups of 5, refused for {' and '.join(map(str, refused))} samples" if refused else "")


def test_a_refusal_of_one_sample_is_no_refusal_of_a_remainder() -> None:
    scope = Scope(dtypes=("float32",), world=1, options={"virtual_batch_size": (None, 2)})
    fussy = grouped(smaller, 2)(scope=scope)

    class Fussy(type(fussy)):  # type: ignore[misc]  # it takes one sample in no call
        def run(self, case: Any) -> Any:
            if case.mode == "batch" and len(case.ranks[0].x) == 1:
                raise ValueError("Expected more than 1 value per channel when training")
            return super().run(case)

    finding = measured(Fussy(scope=scope), "ghost")["remainder"]
    assert (finding.verdict, finding.measured) == ("ambiguous", "ambiguous: refused or a smaller last group")
    assert measured(fussy, "ghost")["remainder"].measured == "refused"  # it takes one sample elsewhere


def test_samples_that_are_left_out_are_no_known_way() -> None:
    def dropped(samples: Any, size: int) -> Any:
        return runs([size] * max(samples // size, 1)) if samples >= size else runs([samples])

    finding = measured(grouped(dropped)(scope=FLOAT32), "ghost")["remainder"]
    assert (finding.verdict, finding.measured) == ("differs", "none of the known")
    assert "groups of 5; 11 samples" in finding.note


# --- NaN and counters -------------------------------------------------------------------------------------------------


def test_a_nan_that_is_swallowed_is_not_its_own_channels() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if not np.isnan(given.x).any() or case.mode != "batch":
            return rank
        state = None if rank.state is None else {k: np.nan_to_num(v) for k, v in rank.state.items()}
        return dataclasses.replace(rank, y=np.nan_to_num(rank.y), state=state)

    found = differing(Wrong(answer=each(answer), scope=PLAIN), "edges")
    assert found["NaN in y reaches"] == found["NaN in the state reaches"] == "none of the known"
    assert found["nonfinite"] == "none of the known"


def test_a_nan_that_stays_at_its_own_element() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return dataclasses.replace(rank, y=np.where(np.isnan(given.x), rank.y, np.nan_to_num(rank.y)))

    finding = measured(Wrong(answer=each(answer), scope=FLOAT32), "edges")["NaN in y reaches"]
    assert (finding.verdict, finding.note) == ("differs", "its own channel has it in 1 of 4 places")


def test_an_update_that_a_nan_skips_for_every_channel() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return dataclasses.replace(rank, state=case.state) if np.isnan(given.x).any() and rank.state else rank

    assert differing(Wrong(answer=each(answer), scope=FLOAT32), "edges")["nonfinite"] == "skip every channel"


def test_a_counter_that_starts_anew_is_not_counted() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if rank.state is None or "count" not in rank.state or given.x.size:
            return rank
        return dataclasses.replace(rank, state=rank.state | {"count": rank.state["count"] * 0})

    finding = measured(Wrong(answer=each(answer)), "running")["counter, empty batch"]
    assert (finding.measured, finding.verdict, finding.note) == ("none of the known", "differs", "4 became 0")


def test_a_mean_that_is_lost_is_no_update() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return (
            rank
            if rank.state is None
            else dataclasses.replace(rank, state={k: v * np.nan for k, v in rank.state.items()})
        )

    class Plain(Wrong):
        backend = None

    finding = measured(Plain(answer=each(answer), scope=PLAIN), "layer")["state is updated"]
    assert finding.measured == "none of the known"
    assert finding.note == "it refused: its mean became [nan, nan]"
