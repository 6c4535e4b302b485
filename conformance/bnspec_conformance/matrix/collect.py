"""Collection of the rows: each subject is run and probed in a process of its own, some of them side by side.

A process for each subject keeps apart libraries that cannot be loaded together, and a subject that crashes is a row of
the table instead of its end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bnspec_conformance.matrix.kept_rows import keep, kept
from bnspec_conformance.matrix.row import MatrixRow
from bnspec_conformance.subjects.parameters import split

__all__ = ["collect", "known_failures"]

#: Known failures of released frameworks, with reasons; a file of waivers for each framework.
_KNOWN = Path(__file__).parent / "known"


def known_failures(subject: str) -> Path | None:
    """Return the file of waivers that ships for a subject: that of "keras" also serves "keras-masked"."""
    files = {path.stem: path for path in _KNOWN.glob("*.toml")}
    return next((path for name, path in sorted(files.items()) if f"{split(subject)[0]}-".startswith(f"{name}-")), None)


def collect(
    subjects: Sequence[str],
    arguments: Callable[[str], Sequence[str]],
    *,
    jobs: int,
    patience: float,
    done: Callable[[MatrixRow], None],
    rows: Path | None = None,
) -> list[MatrixRow]:
    """Run and probe each subject in a process of its own, some of them side by side.

    Parameters
    ----------
    subjects : sequence of str
        Names that `find_subject` takes.
    arguments : callable
        A subject's name to further arguments of ``bnspec-conformance run``.
    jobs : int
        Subjects at a time.
    patience : float
        Seconds a subject may take.
    done : callable
        Told of each row as it is finished.
    rows : Path, optional
        Where rows are kept: those that are there are not run again.
    """
    with tempfile.TemporaryDirectory() as compiled, ThreadPoolExecutor(jobs) as pool:
        # Half of the time of a framework on JAX goes into compiling what the one before it has compiled already.
        shared = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", compiled)}
        shared["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        shared["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

        # Where each operation is a program of its own, as it is without `jax.jit`, compiling is most of the time, and
        # no level of XLA's optimization changes a bit. The lowest is so quick that keeping what it made does not pay.
        quick = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"}

        def one(name: str) -> MatrixRow:
            mine = quick if name == "jax" else shared
            asked = arguments(name)
            row = None if rows is None else kept(rows, name, asked)
            if row is None:
                row = _row(name, asked, patience, mine)
                if rows is not None:
                    keep(rows, row, asked)
            done(row)
            return row

        return list(pool.map(one, subjects))


def _row(name: str, arguments: Sequence[str], patience: float, shared: Mapping[str, str]) -> MatrixRow:
    started = time.perf_counter()
    row = MatrixRow(name)
    with tempfile.TemporaryDirectory() as folder:
        report, findings = Path(folder) / "report.json", Path(folder) / "findings.json"
        said = _run([name, str(report), str(findings), *arguments], patience, shared)
        if report.exists():
            row.report = json.loads(report.read_text(encoding="utf-8"))
        if findings.exists():
            row.findings = [f for s in _subjects(findings) for f in s["findings"]]
        else:
            row.reason = said if row.report is None else f"the probe did not end: {said}"
    row.seconds = time.perf_counter() - started
    return row


def _subjects(path: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["subjects"]
    return found


def _run(arguments: Sequence[str], patience: float, shared: Mapping[str, str]) -> str:
    """Run and probe a subject in a process of its own; the last line it said."""
    command = [sys.executable, "-m", "bnspec_conformance.matrix.worker", *arguments]
    environment = os.environ | shared | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"it was not done after {patience:g} s"
    lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else f"it ended with status {done.returncode} and said nothing"
