"""Checks of BN-ERR-5: names that nobody knows, and libraries that are not there."""

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-ERR-5")
@explore()
def test_unknown_names(t: Trial) -> None:
    """An unknown dialect, backend, communicator or update mode is refused with the list of the known ones."""
    t.needs_backend()
    x = t.needs_backend().asarray(np.ones((4, 2), "float32"))
    layer = bnspec.BatchNorm(sync_statistics="nothing_such")
    backends, communicators = (sorted(entry_points(group=f"bnspec.{g}").names) for g in ("backends", "communicators"))
    dialects = list(bnspec.dialects.names())
    tables: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: bnspec.BatchNorm(dialect="nothing_such"), dialects),
        (lambda: bnspec.dialects["nothing_such"], dialects),
        (lambda: bnspec.get_backend("nothing_such"), backends),
        (lambda: bnspec.get_communicator("nothing_such"), communicators),
        (lambda: layer(x), communicators),
        (lambda: bnspec.BatchNorm(ema_update="nothing_such"), ["default", "collection", "internal", "skip"]),
        (lambda: bnspec.BatchNorm(dialect="tensorpack", sync_statistics="nothing_such"), ["nccl", "horovod"]),
    ]
    for call, known in tables:
        text = t.refuses(call, (LookupError, ValueError), "BN-ERR-5")
        unnamed = [name for name in ("nothing_such", *known) if name not in text]
        t.require(not unnamed, f"the refusal does not name {unnamed}: {text}")
    t.require(not layer.variables, "the refused call left variables behind")


@clauses("BN-ERR-5")
@explore()
def test_absent_library(t: Trial) -> None:
    """A backend or communicator that is known but cannot be imported is refused with what to install, not replaced."""
    t.needs_backend()
    with tempfile.TemporaryDirectory(prefix="bnspec-absent-") as folder:
        info = Path(folder) / "bnspec_absent-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bnspec-absent\nVersion: 1.0\n")
        groups = ("backends", "communicators")
        points = [f"[bnspec.{group}]\nabsent = nowhere_at_all:Thing\n" for group in groups]
        (info / "entry_points.txt").write_text("".join(points))
        sys.path.insert(0, folder)
        try:
            for call in (bnspec.get_backend, bnspec.get_communicator):
                text = t.refuses(lambda: call("absent"), ImportError, "BN-ERR-5")  # noqa: B023
                t.require("nowhere_at_all" in text and "nstall" in text, f"nothing says what to install: {text}")
        finally:
            sys.path.remove(folder)
    for known in bnspec.known_backends():
        if not known.available and known.reason != "no device" and known.extra:
            text = t.refuses(lambda: bnspec.get_backend(known.name), ImportError, "BN-ERR-5")  # noqa: B023
            t.require(f"pip install bnspec[{known.extra}]" in text, f"the refusal does not say what to install: {text}")
