"""The command ``bnspec diff-dialects``: which conventions differ follows from the rows, and sizes are right."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec._cli import main
from bnspec._conversion.differences import Difference, differences
from bnspec._conversion.example import SHAPE, _batches, effect, sync_effect

ROWS = bnspec.dialects.names()
TORCH = bnspec.dialects.torch


def by_name(first: Any, second: Any) -> dict[str, Difference]:
    found = differences(first, second)
    named = {one.convention: one for one in found}
    assert len(named) == len(found)
    return named


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(ROWS, 2)])
def test_what_differs_is_what_differs_in_the_rows(first: str, second: str) -> None:
    a, b = bnspec.dialects[first], bnspec.dialects[second]
    found, mirrored = by_name(a, b), by_name(b, a)
    assert {n: (d.first, d.second) for n, d in found.items()} == {n: (d.second, d.first) for n, d in mirrored.items()}
    for name, field in (
        ("epsilon, default", "epsilon"),
        ("decay, default", "decay"),
        ("momentum", "momentum_weighs"),
        ("running state", "averaging"),
        ("ghost batches feed", "ghost_source"),
        ("uneven ranks", "sync_weighting"),
        ("ranks of x", "ranks"),
        ("axes", "axes"),
    ):
        assert (name in found) == (getattr(a, field) != getattr(b, field)), name
    assert ("correction" in found) == (a.correction != b.correction)
    assert ("name of gamma" in found) == (a.names["gamma"] != b.names["gamma"])


@pytest.mark.parametrize("name", ROWS)
def test_a_framework_does_not_differ_from_itself(name: str) -> None:
    assert differences(bnspec.dialects[name], bnspec.dialects[name]) == []


def test_a_row_that_changes_changes_what_is_told() -> None:
    other = dataclasses.replace(TORCH, name="other", epsilon=0.5, correction=0, sync_weighting="rank")
    assert [*by_name(TORCH, other)] == ["epsilon, default", "correction", "one value per channel", "uneven ranks"]
    sizes = [by_name(TORCH, dataclasses.replace(TORCH, epsilon=e))["epsilon, default"].training for e in (1e-3, 0.5)]
    assert sizes[0] != sizes[1]


def test_the_size_of_epsilon_in_training() -> None:
    a, b = TORCH.config(), TORCH.config(epsilon=1e-3)
    expected = 0.0
    for x in _batches():
        centred = x - x.mean((0, 2, 3), keepdims=True)
        var = x.var((0, 2, 3), keepdims=True)
        expected = max(expected, np.abs(centred / np.sqrt(var + 1e-5) - centred / np.sqrt(var + 1e-3)).max())
    assert effect(a, b).training == pytest.approx(expected, rel=1e-9)
    told = by_name(TORCH, dataclasses.replace(TORCH, epsilon=1e-3))["epsilon, default"].training
    assert told == f"y by up to {expected:.2g}"


def test_the_size_of_the_correction_in_inference() -> None:
    a, b = TORCH.config(), TORCH.config(correction=0)
    n = SHAPE[0] * SHAPE[2] * SHAPE[3]
    inferred = []
    for correction in (1, 0):
        mean, var = np.zeros(2), np.ones(2)
        for x in _batches():
            mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
            var = 0.9 * var + 0.1 * x.var((0, 2, 3)) * n / (n - correction)
        inferred.append((_batches()[0] - mean.reshape(1, 2, 1, 1)) / np.sqrt(var.reshape(1, 2, 1, 1) + 1e-5))
    found = effect(a, b)
    assert found.training == 0
    assert found.inference == pytest.approx(np.abs(inferred[0] - inferred[1]).max(), rel=1e-9)


def test_the_size_of_ranks_that_weigh_alike() -> None:
    a, b = TORCH.config(correction=0), TORCH.config(correction=0, sync_weighting="rank")
    at, expected = SHAPE[0] * 3 // 4, 0.0
    for x in _batches():
        parts = x[:at], x[at:]
        means = [part.mean((0, 2, 3), keepdims=True) for part in parts]
        mean = sum(means) / 2
        var = sum(p.var((0, 2, 3), keepdims=True) + (m - mean) ** 2 for p, m in zip(parts, means)) / 2
        whole = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        expected = max(expected, np.abs(whole - (x - mean) / np.sqrt(var + 1e-5)).max())
    assert sync_effect(a, b).training == pytest.approx(expected, rel=1e-9)


def test_one_value_per_channel() -> None:
    told = by_name(TORCH, bnspec.dialects.tf_keras)["one value per channel"]
    assert (told.first, told.second) == ("is refused", "feeds the variance 0")


def test_the_number_that_is_carried_over() -> None:
    told = by_name(TORCH, bnspec.dialects.keras)["momentum"]
    size = effect(TORCH.config(), TORCH.config(decay=0.1)).inference
    assert told.inference == f"y by up to {size:.2g} if 0.1 stays 0.1"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff-dialects", "torch", "keras"]) == 0
    text = capsys.readouterr().out
    heading, *lines = text.splitlines()
    assert heading.split() == ["convention", "torch", "keras", "training", "inference"]
    assert [line.split("  ")[0] for line in lines[: lines.index("")]] == [*by_name(TORCH, bnspec.dialects.keras)]
    assert "n=32 in each channel" in text
    assert main(["diff-dialects", "torch", "torch"]) == 0
    assert capsys.readouterr().out == "torch and torch differ in no convention that is known.\n"
    assert main(["diff-dialects", "torch", "caffe"]) == 2
    assert "unknown dialect 'caffe'" in capsys.readouterr().err
