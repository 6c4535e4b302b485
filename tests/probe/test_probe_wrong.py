"""What `bnspec-conformance probe` says of subjects that are wrong on purpose: it names what each does."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from wrong_layers import OURS, Wrong, by_place, configured, differing, each, measured, put

from bnspec_conformance.cases.case import Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.scope import PROFILES, Scope
from bnspec_conformance.probe.predict import EPSILON_PLACES

# --- the running state ------------------------------------------------------------------------------------------------


def test_an_inverted_decay() -> None:
    wrong = Wrong(ask=configured(decay=lambda c: 1 - c.decay))
    found = differing(wrong, "running", "ghost", "sync")
    assert found["decay multiplies"] == "new value"
    assert not {"averaging", "correction (rank 2)", "ghost source", "correction (sync)"} & set(found)


def test_a_decay_that_is_no_weight_at_all() -> None:
    found = measured(Wrong(ask=configured(decay=lambda c: c.decay**2)), "running")
    assert (found["decay multiplies"].measured, found["decay multiplies"].verdict) == ("none of the known", "differs")
    assert found["decay multiplies"].note == "saw mean [4.71875, 5.375], var [0.328125, 1.3125]"


def test_a_decay_of_one_half_has_no_sense() -> None:
    wrong = Wrong(scope=Scope(dtypes=("float32",), options={"decay": (0.5,)}))
    finding = measured(wrong, "running")["decay multiplies"]
    assert (finding.measured, finding.verdict) == ("ambiguous: old value or new value", "ambiguous")


def test_swapped_corrections() -> None:
    found = differing(Wrong(ask=configured(correction=lambda c: 1 - c.correction, single_value="floor")))
    assert found["correction (rank 2)"] == found["correction (rank 4)"] == found["correction (ghost)"] == "1"
    assert found["correction (sync)"] == "1"
    assert found["correction (asked: 1)"] == "0"
    assert "decay multiplies" not in found


def test_a_correction_on_the_fused_path_alone() -> None:
    def ask(case: Any) -> Any:
        fused = case.ranks[0].x.ndim == 4 and case.config.virtual_batch_size is None
        return configured(correction=int(fused), single_value="floor")(case)

    def corrections(dialect: Any) -> dict[str, Any]:
        subject = Wrong(ask=ask, dialect=dialect, scope=Scope(dtypes=("float32",), world=1))
        return {
            n: (f.measured, f.verdict)
            for n, f in measured(subject, "running").items()
            if n.startswith("correction (rank")
        }

    assert corrections("tf_keras") == {"correction (rank 2)": ("0", "same"), "correction (rank 4)": ("1", "same")}
    assert corrections("torch") == {"correction (rank 2)": ("0", "differs"), "correction (rank 4)": ("1", "same")}


@pytest.mark.parametrize("averaging", ["cumulative", "pooled", "debiased"])
def test_an_average_that_is_another_one_than_asked_for(averaging: str) -> None:
    def ask(case: Any) -> Any:
        state, asked = case.state, case.config.averaging
        if state is not None and asked == "exponential":
            state = state | {"count": np.full(case.channels, 4)}
        return dataclasses.replace(configured(averaging=averaging)(case), state=state)

    others = {"cumulative", "pooled", "debiased"} - {averaging}
    found = differing(
        Wrong(ask=ask, scope=Scope(profiles=frozenset(PROFILES) - {"ghost"}, dtypes=("float32",))), "running"
    )
    assert {found[f"averaging (asked: {other})"] for other in others} == {averaging}
    if averaging != "debiased":  # the plain case brings no counter, so that the weight cannot be told from another one
        assert found["averaging"] == "none of the known"


def test_an_average_that_takes_the_batch_as_it_is() -> None:
    assert differing(Wrong(ask=configured(decay=0.0)), "running")["averaging"] == "replaced by the batch"
    assert (
        differing(
            Wrong(ask=configured(decay=1.0), scope=Scope(dtypes=("float32",), options={"averaging": ("exponential",)})),
            "running",
        )["averaging"]
        == "unchanged"
    )


@pytest.mark.parametrize(("kind", "measures"), [("keep", "keep"), ("floor", "floor"), ("nan", "not finite")])
def test_one_value_where_it_ought_to_be_refused(kind: str, measures: str) -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if kind == "nan" and rank.state is not None and given.x.size == case.channels:
            return dataclasses.replace(rank, state=rank.state | {"var": rank.state["var"] * np.nan})
        return rank

    wrong = Wrong(ask=configured(single_value="floor" if kind == "nan" else kind), answer=each(answer))
    wrong.scope = Scope(dtypes=("float32",), options={"averaging": ("exponential",)})
    assert differing(wrong, "running")["single value"] == measures


def empty(case: Any, given: Any) -> Any:
    return given.x.size == 0 or (given.mask is not None and not given.mask.any())


def test_a_counter_that_counts_empty_batches() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if rank.state is None or "count" not in rank.state or given.x.size:
            return rank
        return dataclasses.replace(rank, state=rank.state | {"count": rank.state["count"] + 1})

    found = measured(Wrong(answer=each(answer)))
    assert {name for name, f in found.items() if f.verdict == "differs"} == {"counter, empty batch"}
    assert found["counter, empty batch"].measured == "counted"
    assert found["counter, empty batch"].note == "4 became 5"


@pytest.mark.parametrize(("value", "measures"), [(math.nan, "not finite"), (0.75, "moved towards 0")])
def test_empty_batches_that_move_the_state(value: Any, measures: str) -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if rank.state is None or not empty(case, given):
            return rank
        return dataclasses.replace(rank, state={k: v * value for k, v in rank.state.items()})

    found = differing(
        Wrong(answer=each(answer), scope=Scope(dtypes=("float32",), options={"averaging": ("exponential",)}))
    )
    assert found == {"state, empty batch": measures, "state, all masked": measures}


def test_debiased_averages_that_start_at_one() -> None:
    def ask(case: Any) -> Any:
        if case.state is None or case.config.averaging != "debiased" or case.state["count"].any():
            return case
        return dataclasses.replace(case, state=case.state | {"var": np.ones_like(case.state["var"])})

    assert differing(Wrong(ask=ask), "running") == {"debiased averages start at": "mean 0, var 1"}


def test_an_update_that_waits_for_the_backward_pass() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return dataclasses.replace(rank, state=case.state) if given.dy is None and case.update else rank

    assert differing(Wrong(answer=each(answer)))["state is updated"] == "in backward"


# --- normalization ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", sorted(set(EPSILON_PLACES) - {"inside the root"}))
def test_epsilon_elsewhere(place: Any) -> None:
    scope = Scope(profiles=frozenset({"core", "statistics", "running", "inference"}), dtypes=("float32",), world=1)
    found = differing(Wrong(answer=by_place(place), scope=scope))
    assert found["epsilon in training"] == found["epsilon in inference"] == place
    assert not {"variance that normalizes", "training normalizes by", "correction (rank 2)"} & set(found)


def test_the_sample_variance_in_y() -> None:
    scope = Scope(profiles=frozenset({"core", "statistics", "running"}), dtypes=("float32",), world=1)
    found = differing(Wrong(answer=by_place("inside the root", variance=1), scope=scope))
    assert found["variance that normalizes"] == "sample"
    assert not {"epsilon in training", "correction (rank 2)"} & set(found)


@pytest.mark.parametrize("after", [True, False])
def test_training_by_running_statistics(after: bool) -> None:
    def answer(case: Any, outcome: Any) -> Any:
        if case.state is None or case.mode == "inference":
            return outcome
        state = outcome.ranks[0].state if after else case.state
        y = OURS.run(dataclasses.replace(case, mode="inference", state=state)).ranks[0].y
        return Outcome((dataclasses.replace(outcome.ranks[0], y=y),))

    scope = Scope(profiles=frozenset({"core", "running", "inference"}), dtypes=("float32",), world=1)
    found = differing(Wrong(answer=answer, scope=scope))
    assert found["training normalizes by"] == f"the {'updated' if after else 'old'} running statistics"
    assert "epsilon in training" not in found


def test_a_least_epsilon() -> None:
    found = measured(Wrong(ask=configured(epsilon=lambda c: max(c.epsilon, 1e-5))))
    assert found["small epsilon"].verdict == "differs"
    assert found["small epsilon"].note == "1e-9 acts as 1e-05"


# --- ghost ------------------------------------------------------------------------------------------------------------


def reordered(case: Any, order: Any) -> Any:
    ranks = tuple(
        RankInputs(*(None if v is None else v[order] for v in (r.x, r.dy, r.mask, r.xdot))) for r in case.ranks
    )
    return dataclasses.replace(case, ranks=ranks)


def interleaved(case: Any) -> Any:
    """A permutation that makes contiguous runs of every G-th sample."""
    samples = case.ranks[0].x.shape[0]
    number = samples // case.config.virtual_batch_size
    return np.argsort(np.arange(samples) % max(number, 1), kind="stable")


def divisible(case: Any) -> Any:
    size = case.config.virtual_batch_size
    return size is not None and case.mode == "batch" and case.ranks[0].x.shape[0] % size == 0


def test_interleaved_groups() -> None:
    def answer(case: Any, outcome: Any) -> Any:
        if not divisible(case):
            return outcome
        order = interleaved(case)
        other = OURS.run(reordered(case, order)).ranks[0]
        return Outcome((dataclasses.replace(other, y=other.y[np.argsort(order)]),))

    found = measured(Wrong(answer=answer, scope=Scope(dtypes=("float32",), world=1)))
    assert found["grouping"].measured == "interleaved"
    assert found["ghost source"].measured == "first"  # of the groups it has
    assert {n for n, f in found.items() if f.verdict == "differs"} == {"grouping"}


def test_the_last_group_feeds() -> None:
    def answer(case: Any, outcome: Any) -> Any:
        if not divisible(case) or case.config.ghost_source != "first":
            return outcome
        other = OURS.run(reordered(case, np.arange(case.ranks[0].x.shape[0])[::-1])).ranks[0]
        return Outcome((dataclasses.replace(outcome.ranks[0], state=other.state),))

    assert differing(Wrong(answer=answer, scope=Scope(dtypes=("float32",), world=1))) == {"ghost source": "last"}


@pytest.mark.parametrize("source", ["mean", "merged", "sequential"])
def test_another_ghost_source_than_declared(source: str) -> None:
    found = differing(Wrong(ask=configured(ghost_source=source, averaging="exponential"), scope=Scope(
        dtypes=("float32",), options={"averaging": ("exponential",)})), "ghost")  # fmt: skip
    assert found["ghost source"] == source
    assert "grouping" not in found


def test_a_smaller_last_group() -> None:
    def ask(case: Any) -> Any:
        return case if divisible(case) or case.mode == "inference" else configured(virtual_batch_size=None)(case)

    def answer(case: Any, outcome: Any) -> Any:
        size = case.config.virtual_batch_size
        if size is None or divisible(case):
            return outcome
        x = case.ranks[0].x
        plain = configured(virtual_batch_size=None)(dataclasses.replace(case, state=None))
        parts = [OURS.run(reordered(plain, slice(i, i + size))).ranks[0].y for i in range(0, len(x), size)]
        return Outcome((RankOutcome(y=np.concatenate(parts)),))

    wrong = Wrong(ask=ask, answer=answer, scope=Scope(dtypes=("float32",), world=1))
    assert differing(wrong, "ghost") == {"remainder": "a smaller last group"}


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_ranks_of_equal_weight() -> None:
    found = differing(Wrong(ask=configured(sync_weighting="rank")), "sync")
    assert found["sync weighting"] == "rank"
    assert not {"dgamma and dbeta of a rank", "dx of a rank"} & set(found)


def test_ranks_that_do_not_join() -> None:
    def alone(case: Any, outcome: Any) -> Any:
        return Outcome(tuple(OURS.run(dataclasses.replace(case, ranks=(r,))).ranks[0] for r in case.ranks))

    found = differing(Wrong(answer=alone))
    assert found["sync weighting"] == "none: each rank its own"
    assert found["dx of a rank"] == "of its own loss"


@pytest.mark.parametrize(("factor", "measures"), [(1.0, "all ranks' sums"), (0.5, "the ranks' mean")])
def test_joined_parameter_gradients(factor: float, measures: str) -> None:
    def answer(case: Any, outcome: Any) -> Any:
        if len(outcome.ranks) == 1 or outcome.ranks[0].dgamma is None:
            return outcome
        joined = {n: factor * sum(getattr(r, n) for r in outcome.ranks) for n in ("dgamma", "dbeta")}
        return Outcome(tuple(dataclasses.replace(r, **joined) for r in outcome.ranks))

    assert differing(Wrong(answer=answer)) == {"dgamma and dbeta of a rank": measures}


def test_an_input_gradient_of_the_mean_loss() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return rank if rank.dx is None else dataclasses.replace(rank, dx=rank.dx / len(case.ranks))

    assert differing(Wrong(answer=each(answer)), "sync") == {"dx of a rank": "of the ranks' mean loss"}


def test_ranks_of_one_shape_are_made_uneven_by_masks() -> None:
    class Mapped(Wrong):
        def supports(self, case: Any) -> Any:
            shapes = {r.x.shape for r in case.ranks}
            return "its ranks have one shape" if len(shapes) > 1 else super().supports(case)

    assert measured(Mapped(), "sync")["sync weighting"].verdict == "same"
    assert differing(Mapped(ask=configured(sync_weighting="rank")), "sync")["sync weighting"] == "rank"
    unmasked = Scope(profiles=frozenset(PROFILES) - {"mask"}, dtypes=("float32",))
    found = measured(Mapped(scope=unmasked), "sync")
    assert (found["sync weighting"].verdict, found["sync weighting"].note) == (
        "not observable",
        "its ranks have one shape",
    )
    assert found["dgamma and dbeta of a rank"].verdict == "same"


# --- precision --------------------------------------------------------------------------------------------------------


def in_format(kind: Any) -> Any:
    """Normalize with the mean and the squares summed in a narrow format."""

    def answer(case: Any, given: Any, rank: Any) -> Any:
        if case.mode == "inference" or case.config.virtual_batch_size is not None or given.x.shape[0] != 4:
            return rank
        x = np.moveaxis(given.x, case.config.axis, -1).reshape(4, -1).astype(kind)
        with np.errstate(all="ignore"):
            mean = sum(x[1:], x[0]) / kind(4)
            var = sum((x * x)[1:], (x * x)[0]) / kind(4) - mean * mean
            y = (given.x.astype(kind) - put(case, mean)) / np.sqrt(put(case, var) + kind(case.config.epsilon))
        return dataclasses.replace(rank, y=y.astype(given.x.dtype))

    return each(answer)


def narrow(*dtypes: Any, **more: Any) -> Any:
    return Scope(dtypes=dtypes, profiles=frozenset({"core", "running", "inference"}), world=1, ndims=(2,), **more)


def test_sums_in_float16() -> None:
    found = differing(Wrong(answer=in_format(np.float16), scope=narrow("float16")))
    assert found["sums (float16 x)"] == found["centre (float16 x)"] == "float16"
    assert not {"state (float16 x)", "y (float16 x)", "centre in inference (float16 x)"} & set(found)


def test_sums_and_a_one_pass_variance_in_float32() -> None:
    found = differing(Wrong(answer=in_format(np.float32), scope=narrow("float32")))
    assert found["sums (float32 x)"] == found["centre (float32 x)"] == "float32"
    assert found["variance (float32 x)"] == "E[x^2] - E[x]^2 in float32"
    assert "centre (float32 x)" not in differing(
        Wrong(answer=in_format(np.float32), scope=narrow("float32"), bound="plain", arithmetic="float32")
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["batch", "inference"])
def test_y_as_an_affine_function_of_x(mode: str, kind: Any) -> None:
    dtype = np.dtype(kind).name

    def answer(case: Any, given: Any, rank: Any) -> Any:
        if case.mode != mode or given.x.shape[0] != 4:
            return rank
        used = (rank.mean[0], rank.var[0]) if mode == "batch" else (case.state["mean"], case.state["var"])
        mean, var = (put(case, v) for v in used)
        scale = (1 / np.sqrt(var.astype(np.float64) + case.config.epsilon)).astype(kind)
        return dataclasses.replace(rank, y=given.x * scale + (-mean * scale).astype(kind))

    scope = Scope(dtypes=(dtype,), profiles=frozenset({"core", "statistics", "running", "inference"}), world=1)
    scope = dataclasses.replace(scope, options={"averaging": ("exponential",)})
    name = f"y {'' if mode == 'batch' else 'in inference '}evaluated ({dtype} x)"
    found = differing(Wrong(answer=each(answer), scope=scope), "precision")
    assert found[name] == "x*scale + shift"
    assert not {n for n in found if n.startswith(("variance", "sums", "state"))}
    plain = Wrong(answer=each(answer), scope=scope, bound="plain")
    assert measured(plain, "precision")[name].declared == "(x - mean)*scale or x*scale + shift"
    assert name not in differing(plain, "precision")


def test_float64_that_is_computed_in_float32() -> None:
    def ask(case: Any) -> Any:
        ranks = (RankInputs(case.ranks[0].x.astype("float32").astype("float64")),)
        return dataclasses.replace(case, ranks=ranks)

    def answer(case: Any, given: Any, rank: Any) -> Any:
        state = rank.state and {k: v.astype("float32").astype(v.dtype) for k, v in rank.state.items()}
        return dataclasses.replace(rank, y=rank.y.astype("float32").astype("float64"), state=state)

    found = differing(
        Wrong(ask=ask, answer=each(answer), scope=narrow("float64", options={"averaging": ("exponential",)}))
    )
    forms = {f"y {mode}evaluated (float64 x)" for mode in ("", "in inference ")}
    named = {"centre (float64 x)", "variance (float64 x)", *forms}
    assert found == dict.fromkeys(named, "x is narrower than float64") | {"state (float64 x)": "float32"}


@pytest.mark.parametrize("rounds", ["values", "arrays"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_narrow_state(kind: Any, rounds: str) -> None:
    dtype = "float16" if kind is np.float16 else "float64"

    def answer(case: Any, given: Any, rank: Any) -> Any:
        if rank.state is None:
            return rank
        state = {k: v.astype(kind) if v.dtype.kind == "f" else v for k, v in rank.state.items()}
        if rounds == "values":
            state = {k: v.astype(rank.state[k].dtype) for k, v in state.items()}
        return dataclasses.replace(rank, state=state)

    found = measured(Wrong(answer=each(answer), scope=narrow(dtype)))
    finding = found[f"state ({dtype} x)"]
    assert (finding.measured, finding.verdict) == (np.dtype(kind).name, "differs")
    if rounds == "values":
        assert finding.note == f"in arrays of {'float32' if dtype == 'float16' else 'float64'}"


def test_running_statistics_cast_to_the_dtype_of_x() -> None:
    def ask(case: Any) -> Any:
        if case.mode != "inference":
            return case
        dtype = case.ranks[0].x.dtype
        return dataclasses.replace(case, state={k: v.astype(dtype).astype(v.dtype) for k, v in case.state.items()})

    found = differing(Wrong(ask=ask, scope=narrow("bfloat16", "float32")))
    assert found == {"centre in inference (bfloat16 x)": "bfloat16"}


def test_a_wider_y() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        return dataclasses.replace(rank, y=rank.y.astype("float32"))

    assert differing(Wrong(answer=each(answer), scope=narrow("float16")))["y (float16 x)"] == "float32"


# --- edges ------------------------------------------------------------------------------------------------------------


def test_a_nan_that_reaches_other_channels() -> None:
    def answer(case: Any, given: Any, rank: Any) -> Any:
        if case.mode == "inference" or not np.isnan(given.x).any():
            return rank
        spoilt = {k: v + np.nan for k, v in rank.state.items()} if rank.state else None
        return dataclasses.replace(rank, y=rank.y + np.nan, state=spoilt)

    found = differing(
        Wrong(answer=each(answer), scope=Scope(dtypes=("float32",), options={"nonfinite": ("propagate",)})), "edges"
    )
    everywhere = {"NaN in y reaches": "other channels too", "NaN in the state reaches": "other channels too"}
    assert found == everywhere | {"nonfinite": "propagate to every channel"}


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_another_rule_for_nan(policy: str) -> None:
    assert differing(Wrong(ask=configured(nonfinite=policy)), "edges")["nonfinite"] == policy


def test_one_value_is_refused() -> None:
    class Fussy(Wrong):
        def run(self, case: Any) -> Any:
            if case.mode == "batch" and case.ranks[0].x.shape[0] == 1:
                raise ValueError("more than one value, please")
            return super().run(case)

    found = measured(Fussy(scope=Scope(dtypes=("float32",), world=1)), "edges")
    for name in ("one value, no state", "one value, with a state"):
        assert (found[name].measured, found[name].verdict) == ("refused", "differs")
        assert found[name].note == "ValueError: more than one value, please"
