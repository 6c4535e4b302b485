"""What `bnspec-conformance probe` measures of frameworks' layers, where they are installed."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import pytest
from wrong_layers import differing

from bnspec_conformance.probe import probe
from bnspec_conformance.subjects import find_subject

FIELDS = ("gamma", "beta", "mean", "var", "count")


@pytest.mark.parametrize(
    ("library", "subject", "unnamed"),
    [
        ("torch", "torch.torch_nn:layer", set()),
        ("torch", "torch.torch_nn:functional", {"gamma", "beta", "mean", "var", "count"}),
        ("flax", "jax.flax:linen", {"count"}),
        ("flax", "jax.flax:nnx", {"count"}),
        ("haiku", "jax.haiku:haiku", {"count"}),
        ("equinox", "jax.equinox:ema", {"mean", "var", "count"}),
        ("keras", "keras.keras:keras", {"count"}),
        ("onnx", "onnx.operator:reference", {"count"}),
        ("tf_keras", "keras.tf_keras:tf_keras", {"count"}),
        pytest.param("paddle", "paddle.paddle:paddle", {"count"}, marks=pytest.mark.paddle),
        pytest.param("paddle", "paddle.paddle:paddle_one_value", {"count"}, marks=pytest.mark.paddle),
        ("mlx", "mlx.mlx:mlx", {"count"}),
        ("mlx", "mlx.mlx:mlx_16_bit", {"count"}),
    ],
)
def test_the_layers_of_frameworks_are_what_their_rows_say_but_for_what_they_declare(
    library: str, subject: str, unnamed: set[Any]
) -> None:
    if find_spec(library) is None:  # not imported: Keras reads its backend then, which the subject chooses
        pytest.skip(f"{library} is not installed")
    made: Any = find_subject("bnspec_conformance.subjects.frameworks." + subject)
    found = {f.convention: f for f in probe(made)}
    assert [f for f in found.values() if f.verdict == "differs"] == []
    assert {n for n in FIELDS if found[f"name of {n}"].verdict == "not observable"} == unnamed
    assert found["momentum weighs"].verdict == found["default epsilon"].verdict == "same"
    known = made.departures()
    silent = dataclasses.replace(made, defaults=dataclasses.replace(made.defaults, departures={}))
    assert differing(silent) == dict(known)  # each of them is there, and nothing else is
