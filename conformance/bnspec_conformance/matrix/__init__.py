"""The divergence table: every subject that can be had, each in a process of its own, against every clause.

A process per subject keeps libraries apart that do not like each other's company, and a subject that crashes is a row
of the table instead of its end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnspec_conformance.matrix._page import page

__all__ = ["Row", "collect", "known_failures", "merged", "page"]

#: What is known to fail in released frameworks, with reasons; a file of waivers for each framework.
_KNOWN = Path(__file__).parent / "known"


@dataclass
class Row:
    """One subject of the table.

    Attributes
    ----------
    subject : str
    report : dict or None
        Its report; None if there is none, and then `reason` says why.
    findings : list of dict
        What `probe` measured of its conventions.
    reason : str
    seconds : float
    """

    subject: str
    report: dict[str, Any] | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether something failed that no waiver covers, or a convention differs from the declared one."""
        checks = [] if self.report is None else self.report["checks"]
        return any(c["outcome"] in ("failed", "stale") for c in checks) or any(
            f["verdict"] == "differs" for f in self.findings
        )

    @property
    def broken(self) -> bool:
        """Whether the adapter does not work: nothing was compared, or what it gave was no outcome, or no probe ran."""
        checks = [] if self.report is None else self.report["checks"]
        # A number that is off is a number all the same; an error or a malformed outcome has none.
        compared = any(c["outcome"] == "passed" or (c["violation"] or {}).get("got") is not None for c in checks)
        return not compared or not self.findings or any("the check broke" in c["reason"] for c in checks)


def known_failures(subject: str) -> Path | None:
    """The file of waivers that ships for a subject: that of "keras" also serves "keras-masked"."""
    files = {path.stem: path for path in _KNOWN.glob("*.toml")}
    return next((path for name, path in sorted(files.items()) if f"{subject}-".startswith(f"{name}-")), None)


def collect(
    subjects: Sequence[str],
    arguments: Callable[[str], Sequence[str]],
    *,
    jobs: int,
    patience: float,
    done: Callable[[Row], None],
) -> list[Row]:
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
    """
    with tempfile.TemporaryDirectory() as compiled, ThreadPoolExecutor(jobs) as pool:
        # Half of the time of a framework on JAX goes into compiling what the one before it has compiled already.
        shared = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        shared["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

        # bnspec's own clauses hold at every level of XLA's optimization. Compiling is most of their time there, and
        # the lowest level so quick that keeping what it made does not pay.
        quick = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"}

        def one(name: str) -> Row:
            mine = quick if name in ("jax", "jax-jit") else shared
            row = _row(name, arguments(name), patience, mine)
            done(row)
            return row

        return list(pool.map(one, subjects))


def merged(rows: Sequence[Row], command: str, seconds: float) -> dict[str, Any]:
    """One report of all subjects that ran, in the form of ``schemas/report.schema.json``."""
    from bnspec_conformance.report import by_clause
    from bnspec_conformance.report._document import plain, record_from_json

    reports = [row.report for row in rows if row.report is not None]
    if not reports:
        raise ValueError("no subject ran")
    records = [record_from_json(check) for report in reports for check in report["checks"]]
    lacking: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    for report in reports:
        versions |= report["versions"]
        for clause, entry in report["clauses"].items():
            for name, mine in entry["subjects"].items():
                if mine["verdict"] == "not supported" and mine["reasons"]:
                    lacking.setdefault(name, {})[clause] = mine["reasons"][0]
    whole = reports[0] | {
        "versions": dict(sorted(versions.items())),
        "command": command,
        "notes": [note for report in reports for note in report.get("notes", [])],
        "seconds": round(seconds, 3),
        "subjects": [subject for report in reports for subject in report["subjects"]],
        "clauses": {c: entry for c, entry in by_clause(records, lacking).items() if entry["subjects"]},
        "checks": [record.to_json() for record in records],
    }
    made: dict[str, Any] = plain(whole)
    return made


def _row(name: str, arguments: Sequence[str], patience: float, shared: Mapping[str, str]) -> Row:
    started = time.perf_counter()
    row = Row(name)
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
    command = [sys.executable, "-m", "bnspec_conformance.matrix._process", *arguments]
    environment = os.environ | shared | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"it was not done after {patience:g} s"
    lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else f"it ended with status {done.returncode} and said nothing"
