"""The layers of the JAX world and bnspec under `jax.jit` as subjects: that they run what they name, as it is asked."""

import dataclasses
import importlib
from importlib.metadata import entry_points
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparisons import compare

from bnspec import BatchNormConfig, Renorm
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks.examples import example
from bnspec_conformance.subjects import Subject, complete
from bnspec_conformance.trials.violations.violation import Violation

pytest.importorskip("jax", reason="jax is not installed")

EVERYTHING = ("y", "count", "mean", "var", "state", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")
LAYERS = {
    "flax-linen": ("jax.flax:linen", "flax"),
    "flax-linen-two-pass": ("jax.flax:linen_two_pass", "flax"),
    "flax-nnx": ("jax.flax:nnx", "flax"),
    "flax-nnx-two-pass": ("jax.flax:nnx_two_pass", "flax"),
    "haiku": ("jax.haiku:haiku", "haiku"),
    "equinox-ema": ("jax.equinox:ema", "equinox"),
    "equinox-batch": ("jax.equinox:batch", "equinox"),
}


def subject(name: str) -> Subject:
    """Make the subject, or skip where its framework is missing."""
    place, library = LAYERS[name]
    pytest.importorskip(library, reason=f"{library} is not installed")
    module, factory = place.split(":")
    made = getattr(importlib.import_module(f"bnspec_conformance.subjects.frameworks.{module}"), factory)()
    assert made.name == name
    return complete(made, name)


def jitted() -> Subject:
    """Make the subject, or skip where bnspec runs from its folder and has no entry points."""
    if "jax" not in entry_points(group="bnspec.backends").names:
        pytest.skip("bnspec is not installed, so its backends are not known")
    from bnspec_conformance.subjects.own.jit import jax_jit

    return complete(jax_jit(), "jax-jit")


def case_for(made: Subject, *, ranks: int = 1, shape: tuple[int, ...] = (4, 3, 2), **fields: Any) -> Case:
    """A case with everything to be derived, in the subject's own averaging."""
    averaging = made.scope.options.get("averaging", ("exponential",))[0]
    config = BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0,
                                 "averaging": averaging, "sync_weighting": "rank"} | fields))  # fmt: skip
    return example(config, [shape] * ranks)


def agree(made: Subject, case: Case, *fields: str) -> None:
    compare(made, case, *(fields or EVERYTHING))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_its_dialect_says(name: str) -> None:
    made = subject(name)
    plain = case_for(made)
    for case in (plain, case_for(made, ranks=2)):
        if name == "equinox-ema":  # with a state it normalizes by the running statistics
            case = dataclasses.replace(case, state=None)
        agree(made, case)
        assert made.run(made.scope.fit(case)).ranks[0].dx is not None
    agree(made, dataclasses.replace(plain, mode="inference", update=False))
    agree(made, case_for(made, center=False, scale=False), "state", "dx" if name != "equinox-ema" else "state")


@pytest.mark.parametrize("name", ["flax-linen", "flax-linen-two-pass", "flax-nnx", "flax-nnx-two-pass"])
def test_masks_reach_the_layer(name: str) -> None:
    made, case = subject(name), case_for(subject(name), ranks=2)
    masks = np.array([1, 1, 0, 1], bool).reshape(4, 1, 1), np.array([1, 0, 0, 0, 1, 1, 1, 1], bool).reshape(4, 1, 2)
    ranks = tuple(dataclasses.replace(r, mask=m) for r, m in zip(case.ranks, masks))
    agree(made, dataclasses.replace(case, ranks=ranks))


@pytest.mark.parametrize("name", LAYERS)
def test_results_are_new_arrays_of_the_dtypes_that_went_in(name: str) -> None:
    made = subject(name)
    case = case_for(made)
    ranks = tuple(
        dataclasses.replace(r, **{k: getattr(r, k).astype(ml_dtypes.bfloat16) for k in ("x", "dy", "xdot")})
        for r in case.ranks
    )
    (got,) = made.run(made.scope.fit(dataclasses.replace(case, ranks=ranks))).ranks
    for field in ("y", "dx", "ydot"):
        array = getattr(got, field)
        assert (array.dtype.name, array.shape, array.flags.writeable) == ("bfloat16", (4, 3, 2), True), field


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("flax-linen", "flax.linen.BatchNorm"),
        ("flax-nnx", "flax.nnx.BatchNorm"),
        ("haiku", "haiku.BatchNorm"),
        ("equinox-batch", "equinox.nn.BatchNorm"),
    ],
)
def test_the_layer_that_runs_is_the_frameworks_own(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subject(name)
    module, attribute = where.rsplit(".", 1)
    place = importlib.import_module(module)
    calls = []
    original = getattr(place, attribute).__call__

    def call(self: Any, *args: Any, **more: Any) -> Any:
        calls.append(type(self).__name__)
        return original(self, *args, **more)

    monkeypatch.setattr(getattr(place, attribute), "__call__", call)
    case = case_for(made)
    made.run(dataclasses.replace(made.scope.fit(case), ranks=(dataclasses.replace(case.ranks[0], xdot=None),)))
    assert calls


def test_equinox_in_mode_ema_normalizes_by_what_it_has_just_updated() -> None:
    made = subject("equinox-ema")
    case = case_for(made)
    agree(made, case, "state")
    with pytest.raises(Violation, match="y is off"):
        agree(made, case, "y")


def test_equinox_in_mode_batch_has_a_right_state_unless_it_is_new() -> None:
    made = subject("equinox-batch")
    case = case_for(made)
    assert case.state is not None
    agree(made, case, "state")
    new = {"mean": np.zeros(3, "float32"), "var": np.zeros(3, "float32"), "count": np.zeros(3, "int64")}
    with pytest.raises(Violation, match=r"state\.var is off"):
        agree(made, dataclasses.replace(case, state=new), "state")


@pytest.mark.parametrize("name", ["haiku", "equinox-batch"])
def test_counters_of_several_values_are_declined(name: str) -> None:
    made = subject(name)
    case = case_for(made)
    assert case.state is not None
    uneven = dataclasses.replace(case, state=case.state | {"count": np.array([1, 2, 3])})
    assert made.supports(made.scope.fit(uneven)) == "it has one counter for all channels"


@pytest.mark.parametrize("name", LAYERS)
def test_options_count_only_where_they_matter(name: str) -> None:
    made = subject(name)
    case = made.scope.fit(case_for(made))
    other = "pooled" if name != "equinox-ema" else "cumulative"
    foreign = dataclasses.replace(case, config=dataclasses.replace(case.config, correction=1, averaging=other))
    assert made.supports(foreign) is not None
    assert made.supports(dataclasses.replace(foreign, state=None)) is None
    assert made.supports(dataclasses.replace(foreign, update=False)) is None
    counted = dataclasses.replace(
        case_for(made, ranks=2), config=dataclasses.replace(case.config, sync_weighting="count")
    )
    assert made.supports(made.scope.fit(counted)) is None
    uneven = example(case.config, [(4, 3, 2), (2, 3, 2)])
    assert "sync_weighting" not in str(made.supports(made.scope.fit(uneven)))
    assert "one shape" in str(made.supports(made.scope.fit(uneven)))


@pytest.mark.parametrize(
    ("ranks", "fields"),
    [
        (1, {"averaging": "pooled", "correction": 1}),
        (2, {"virtual_batch_size": 2, "ghost_source": "merged", "renorm": Renorm(rmax=1.5, dmax=0.5)}),
    ],
)
def test_jit_agrees_with_the_exact_answer(ranks: int, fields: dict[str, Any]) -> None:
    made = jitted()
    case = case_for(made, ranks=ranks, **fields)
    mask = np.array([1, 1, 0, 1], bool).reshape(4, 1, 1)
    masked = tuple(dataclasses.replace(r, mask=mask) for r in case.ranks)
    agree(made, dataclasses.replace(case, ranks=masked))


def test_jit_compiles_a_configuration_and_its_shapes_once() -> None:
    from bnspec_conformance.subjects.own.jit import Compiled, _program

    made = jitted()
    case = dataclasses.replace(case_for(made), mode="inference", update=False, dmean=None, dvar=None)
    agree(made, case)
    size = _program(Compiled._compute)._cache_size()
    agree(made, dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], x=case.ranks[0].x + 1),)))
    assert _program(Compiled._compute)._cache_size() == size
    agree(made, dataclasses.replace(case, config=dataclasses.replace(case.config, epsilon=0.5)))
    assert _program(Compiled._compute)._cache_size() == size + 1


def test_jit_refuses_at_tracing_what_shapes_show_and_declines_what_only_values_show() -> None:
    made = jitted()
    ghost = case_for(made, virtual_batch_size=2, shape=(4, 3))
    odd = dataclasses.replace(
        ghost, config=dataclasses.replace(ghost.config, virtual_batch_size=3), dmean=None, dvar=None
    )
    assert made.supports(odd) is None
    with pytest.raises(ValueError, match="BN-GRP-3"):
        made.run(odd)
    single = case_for(made, shape=(1, 3), correction=1)
    assert "BN-RUN-4" in str(made.supports(single))
    assert made.supports(dataclasses.replace(single, update=False)) is None
    lost = case_for(made, nonfinite="raise")
    assert made.supports(lost) is None
    lost.ranks[0].x[0, 0, 0] = np.nan
    assert "BN-RUN-10" in str(made.supports(lost))
    assert "one shape" in str(made.supports(example(lost.config, [(4, 3), (2, 3)])))
