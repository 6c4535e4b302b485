"""Checks of the files of SPEC.md, "Names and serialization": round trips and atomic writes."""

import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.layers import awkward, layer_of, names_of, snapshot, state_of
from bnspec_conformance.checks.state.test_names import layers
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

SUFFIXES = (".npz", ".safetensors")


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder for the time of a check."""
    with tempfile.TemporaryDirectory(prefix="bnspec-files-") as name:
        yield Path(name)


def needs_suffix(suffix: str) -> None:
    """Leave out files whose format is not installed."""
    if suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
        raise NotSupported("the package safetensors is not installed")


def saved(t: Trial, case: Case, path: Path, suffix: str) -> None:
    """Save to a file and load it into a new and a used layer."""
    needs_suffix(suffix)
    put = t.needs_backend().asarray
    source, new, used = (layer_of(t, case) for _ in range(3))
    source(put(case.ranks[0].x))
    used(put(case.ranks[0].x))
    source.load_state_dict({name: put(v) for name, v in awkward(case).items()})
    before = state_of(t, source)
    file = path / f"state{suffix}"
    for target in (file, str(file)):
        source.save(target)
        for other in (new, used):
            other.load(target)
            t.same(state_of(t, other), before, "variables after loading the file", case)
    t.require(sorted(p.name for p in path.iterdir()) == [file.name], "saving left other files", case)
    with np.errstate(all="ignore"):
        new(put(case.ranks[0].x))
        source(put(case.ranks[0].x))
    t.same(state_of(t, new), state_of(t, source), "variables after loading the file and one more step", case)


@clauses("BN-STATE-3")
@explore(layers, share=0.5)
def test_npz(t: Trial, case: Case) -> None:
    """A .npz file brings every variable back to the bit, and numpy.load opens it too."""
    with folder() as path:
        saved(t, case, path, ".npz")
        with np.load(path / "state.npz", allow_pickle=False) as opened:
            t.require(
                set(names_of(case.config).values()) <= set(opened), "numpy.load does not find the variables", case
            )


@clauses("BN-STATE-3")
@explore(layers, share=0.5)
def test_safetensors(t: Trial, case: Case) -> None:
    """A .safetensors file brings every variable back to the bit."""
    with folder() as path:
        saved(t, case, path, ".safetensors")


@clauses("BN-STATE-3", "BN-ERR-2")
@explore(lambda s: strategies.cases(s, running=True), share=0.1)
def test_other_suffixes(t: Trial, case: Case) -> None:
    """Any other suffix is refused, and no file appears."""
    layer = layer_of(t, case)
    for name in ("state.pt", "state", "state.npz.bak", "state.npy", ".npz", "state.pickle"):
        with folder() as path:
            before = snapshot(t, layer, path)
            t.refuses(lambda: layer.save(path / name), ValueError, "BN-STATE-3")  # noqa: B023
            t.refuses(lambda: layer.load(path / name), ValueError, "BN-STATE-3")  # noqa: B023
            unchanged = snapshot(t, layer, path) == before
            t.require(unchanged, f"the refusal of {name} changed something", case, proves=("BN-ERR-2",))


@contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Call ``look`` at every call and return of any function, the operating system's among them."""
    inside = False

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal inside
        if not inside:
            inside = True
            try:
                look()
            finally:
                inside = False

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


@clauses("BN-STATE-4")
@explore(lambda s: strategies.cases(s, running=True), share=0.1)
def test_atomic_write(t: Trial, case: Case) -> None:
    """At no moment of a save does the file hold anything but all of the old or all of the new content."""
    for suffix in SUFFIXES:
        needs_suffix(suffix)
        with folder() as path:
            file, fresh = path / f"a{suffix}", path / f"new{suffix}"
            layer = layer_of(t, case)
            layer.save(file)
            old = file.read_bytes()
            layer.load_state_dict(layer_of(t, dataclasses.replace(case, beta=None, gamma=None, state=None)).variables)
            seen: dict[Path, set[bytes | None]] = {file: set(), fresh: set()}
            for target, contents in seen.items():
                with watched(lambda: contents.add(_content(target))):  # noqa: B023
                    layer.save(target)
            new = _content(file)
            t.require(
                seen[file] <= {old, new} and old in seen[file],
                f"{len(seen[file])} contents of the file were seen",
                case,
            )
            t.require(seen[fresh] <= {None, new}, "a partial file had the final name", case)


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, 1 << 24)
    finally:
        os.close(descriptor)


@clauses("BN-STATE-4", "BN-ERR-2")
@explore(lambda s: strategies.cases(s, running=True), share=0.1)
def test_failing_write(t: Trial, case: Case) -> None:
    """A write that the system cuts off leaves the old file, or none, and no other file."""
    try:
        import resource
    except ImportError:
        raise NotSupported("this system cannot limit the size of a file") from None
    for suffix in SUFFIXES:
        needs_suffix(suffix)
        with folder() as path:
            layer = layer_of(t, case)
            layer.save(path / f"a{suffix}")
            before = snapshot(t, layer, path)
            for name in ("a", "new"):
                limits = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # Python ignores the signal: write fails
                try:
                    layer.save(path / f"{name}{suffix}")
                    failed = False
                except OSError:
                    failed = True
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                broken = "a save that could not be written whole reported success"
                t.require(failed, broken, case, proves=("BN-STATE-4",))
                unchanged = snapshot(t, layer, path) == before
                t.require(unchanged, "a save that failed changed something", case)  # the file too: both clauses
