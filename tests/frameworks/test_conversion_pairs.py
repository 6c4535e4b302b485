"""Saved by one framework, converted, and loaded by another: inference is the same, for all pairs and on the way back.

The command is run as a user runs it; the frameworks themselves write the first file and read the last.
"""

import itertools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moved_models import MODELS, UPDATES, C, Model

import bnspec
from bnspec._cli import main
from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.files import read_checkpoint
from bnspec._conversion.options import read_options
from bnspec_conformance.bounds import bounds, violations
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.oracle import exact

os.environ.setdefault("KERAS_BACKEND", "jax")

BY_NAME = {model.dialect: model for model in MODELS}
PAIRS = list(itertools.permutations(BY_NAME, 2))
RNG = np.random.default_rng(11)
EPSILON, DECAY = 3e-3, 0.95
VALUES: dict[str, Any] = dict(zip(("gamma", "beta", "mean", "var"), RNG.uniform(0.3, 3, (4, C)).astype(np.float32)))
X = RNG.normal(1, 2, (4, C, 2, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def frameworks_warn() -> Iterator[None]:
    """Let the frameworks warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def arguments(model: Model) -> dict[str, Any]:
    row = bnspec.dialects[model.dialect]
    named = row.storage.arguments
    return {named["epsilon"]: EPSILON, named["decay"]: row.momentum_of(DECAY)} | (
        {"create_scale": True, "create_offset": True} if model.dialect == "haiku" else {}
    )


def saved(model: Model, folder: Path, values: dict[str, Any]) -> Path:
    path = folder / f"{model.dialect}{model.suffix}"
    folder.mkdir(exist_ok=True)
    model.save(path, values, arguments(model))
    return path


def converted(path: Path, source: Model, target: Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    out = folder / f"to_{target.dialect}{target.suffix}"
    command = ["convert", str(path), "--from", source.dialect, "--to", target.dialect, "-o", str(out)]
    command += ["--count", "keep", "--rename", f"{source.layer}={target.layer}"]
    if target.dialect == "haiku":
        command += ["--axis", "1"]
    if not source.has_options:
        command += ["--config", str(source.options(path, arguments(source)))]
    if target.needs_template:
        other = {field: np.ones(C, np.float32) for field in VALUES}
        template = saved(target, folder / "template", other)
        command += ["--template", str(template), "--template-config", str(target.options(template, {}))]
    assert main(command) == 0
    return out


def content(path: Path, model: Model) -> Checkpoint:
    layers, names = read_options(model.options(path, {}).read_text(), bnspec.dialects[model.dialect])
    return read_checkpoint(path, bnspec.dialects[model.dialect], layers, names)


def expected() -> tuple[Any, Any]:
    """The exact y, and the bound of an implementation in float32."""
    config = bnspec.BatchNormConfig(axis=1, epsilon=EPSILON, decay=DECAY, correction=0)
    state = {"mean": VALUES["mean"], "var": VALUES["var"]}
    case = Case(config=config, ranks=(RankInputs(X),), gamma=VALUES["gamma"], beta=VALUES["beta"], state=state,
                mode="inference")  # fmt: skip
    reference = exact(case)
    return reference.ranks[0].y, bounds(case, reference, "float32", flush=True, plain=True).ranks[0].y


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_inference_moves_with_the_file_and_comes_back(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = BY_NAME[source], BY_NAME[target]
    for model in (here, there):
        if model.package:
            pytest.importorskip(model.package)
    path = saved(here, tmp_path / "source", VALUES)
    before = path.read_bytes()
    out = converted(path, here, there, tmp_path / "out")
    assert path.read_bytes() == before
    told = json.loads((out.parent / f"{out.name}.layers.json").read_text())["layers"][there.layer]
    row = bnspec.dialects[target]
    assert {k: told[k] for k in arguments(there)} == arguments(there)
    y, bound = expected()
    got = there.infer(out, X, {k: told[k] for k in arguments(there)})
    assert got.shape == X.shape
    assert not violations(np.asarray(got), y, bound, X.dtype).any(), np.max(np.abs(got - y) / bound)

    back = converted(out, there, here, tmp_path / "back")
    first, last = content(path, here).arrays, content(back, here).arrays
    assert {name.removesuffix(":0") for name in first} == set(last)
    for name, a in first.items():
        b = last[name.removesuffix(":0")]
        variable = name.rpartition("/")[2].rpartition(".")[2]
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if variable in ("counter", "num_batches_tracked") and not row.storage.counters:
            assert int(b) != UPDATES  # the report says that the other framework keeps no number
        elif variable == "hidden":  # made anew of the average and the number of updates
            assert not row.storage.counters or np.allclose(a, b, rtol=2.0**-23, atol=0)
        else:
            assert np.array_equal(a, b), name
    assert "converted" in capsys.readouterr().out
