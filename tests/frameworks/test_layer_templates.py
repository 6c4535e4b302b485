"""new-port --from torch, keras and flax: each file runs as it is, and gives the numbers of the suite's own adapter."""

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnspec import BatchNormConfig
from bnspec_conformance import cli, find_subject
from bnspec_conformance.checks.examples import example
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.trials.budget import Budget

#: The suite's own subject of the layer that each file starts from.
ADAPTERS = {"torch": "torch-nn", "keras": "keras", "flax": "flax-nnx-two-pass"}
RESULTS = ("y", "dx", "dgamma", "dbeta")
#: Questions that a layer answers as the specification has it. In training Keras does not on torch, where it takes the
#: variance as E[x^2] - E[x]^2 in float32.
INFERENCE = ("inference::test_formula",)
CHECKS = ("normalize::test_formula", "running::test_exponential", "gradients::test_vjp", *INFERENCE)


@pytest.fixture(scope="module", params=ADAPTERS)
def library(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when Keras is first imported
    pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "keras":
        keras = importlib.import_module("keras")
        if keras.backend.backend() != "torch":
            pytest.skip(f"Keras runs on {keras.backend.backend()} in this process, and the file is for torch")
    return name


@pytest.fixture
def subject(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["new-port", f"from_{library}", "--from", library]) == 0
    return find_subject(f"from_{library}:port")


def test_the_file_gives_the_numbers_of_the_adapter(library: str, subject: Any) -> None:
    adapter = find_subject(ADAPTERS[library])
    correction = 1 if library == "torch" else 0
    config = BatchNormConfig(axis=1, epsilon=1e-3, decay=0.75, correction=correction)
    for shape in ((6, 3), (4, 3, 2, 2)):
        whole = subject.scope.fit(example(config, [shape]))
        cases = [whole, dataclasses.replace(whole, mode="inference", update=False)]
        cases += [dataclasses.replace(whole, config=dataclasses.replace(config, scale=False))]
        for case in cases:
            assert subject.supports(case) is None
            (got,), (want,) = subject.run(case).ranks, adapter.run(case).ranks
            for name in RESULTS:
                np.testing.assert_array_equal(getattr(got, name), getattr(want, name), name)
            assert (got.state is None) == (want.state is None) == (case.mode == "inference")
            for name, array in (want.state or {}).items():
                np.testing.assert_array_equal(got.state[name], array, name)


def test_the_file_passes_what_the_layer_passes(library: str, subject: Any) -> None:
    for name in INFERENCE if library == "keras" else CHECKS:
        record = attempt(all_checks()[f"test_{name}"], subject, Budget(2 if library == "flax" else 6, 0, shrink=False))
        assert record.outcome == "passed", record.reason
