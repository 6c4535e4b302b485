"""Digests of seeded calls: equal from run to run, and different as soon as a bit is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded_digests
from seeded_digests import KINDS, Digest, digest_of, drawn, functional

from bnspec_backends import cpu

#: Kinds that need no library but NumPy, and few calls of each.
FEW = {"numpy-default": 8, "layer-numpy": 3, "threads": 2}


@pytest.fixture(autouse=True)
def _nothing_compiles() -> Iterator[None]:
    with cpu.using("specification"):
        yield


@pytest.mark.parametrize("kind", FEW)
def test_two_runs_agree(kind: str) -> None:
    first = digest_of(kind, FEW[kind])
    assert first == digest_of(kind, FEW[kind])
    assert first != digest_of(kind, FEW[kind] - 1)


def test_another_process_agrees() -> None:
    command = [sys.executable, seeded_digests.__file__, "--calls", "4", "numpy-specification"]
    environment = {name: value for name, value in os.environ.items() if name != "BNSPEC_CPU_KERNELS"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert lines == {"numpy-specification": digest_of("numpy-default", 4)}


@pytest.mark.parametrize("name", ["x", "dy", "xdot", "gamma", "beta"])
def test_a_bit_of_an_argument_changes_the_digest(name: str) -> None:
    seed = next(s for s in range(100) if _has_all(drawn(s, ("float64",))))

    def digest(flip: int) -> str:
        given = drawn(seed, ("float64",))
        given[name].reshape(-1).view(np.uint64)[0] ^= flip
        found = Digest()
        functional(given, np.asarray, found)
        return str(found)

    assert digest(0) == digest(0) != digest(1 << 40)


def _has_all(given: dict[str, Any]) -> bool:
    return given["mask"] is None and given["gamma"] is not None and given["beta"] is not None


@pytest.mark.parametrize("bit", [0, 31, 52, 63])
def test_a_bit_of_a_result_changes_the_digest(bit: int) -> None:
    digests = set()
    for flip in (0, 1 << bit):
        values = np.ones(3)
        values.view(np.uint64)[1] ^= np.uint64(flip)
        digest = Digest()
        digest.add((values, None))
        digests.add(str(digest))
    assert len(digests) == 2


def test_dtype_shape_and_absence_change_the_digest() -> None:
    digests = set()
    given = (np.zeros(4, "f4"), np.zeros((2, 2), "f4"), np.zeros(4, "i4"), np.zeros(2, "f8"), None)
    for value in given:
        digest = Digest()
        digest.add(value)
        digests.add(str(digest))
    assert len(digests) == len(given)


def test_every_kind_names_a_backend_and_has_calls() -> None:
    assert all(calls > 0 and callable(call) for _, calls, call in KINDS.values())
    assert Path(seeded_digests.__file__).parent.name == "support"
