"""``bnspec-conformance matrix``: every subject that can be had against every clause, as one page."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnspec_conformance.commands.numbers import count, seconds
from bnspec_conformance.commands.subject_options import add_subject_options, named, named_of_those_that_take

if TYPE_CHECKING:
    from bnspec_conformance.matrix.row import MatrixRow

__all__ = ["call", "register"]


#: One clause of each kind of work that an adapter does.
_SMOKE = ("BN-NORM-1", "BN-RUN-1", "BN-INF-1", "BN-GRAD-1", "BN-GRAD-4", "BN-MASK-2", "BN-SYNC-8", "BN-RENORM-1")


#: Subjects that are another one again: alone in a world of ranks, NumPy by each kind of kernels, JAX compiled.
_AGAIN = ("jax-axis", "jax-compiled", "jax-jit", "jax-nested", "mpi", "nccl", "numpy-blocked", "numpy-compiled",
          "numpy-specification", "torch-gloo")  # fmt: skip

#: Cases per check of bnspec's own subjects; `run` takes more, and is what answers for bnspec itself.
_FEWER = {"jax": 3, "numpy": 8, "strict": 8, "torch": 8, "torch-module": 8}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    matrix = commands.add_parser("matrix", help="write the divergence table of all subjects that can be had")
    matrix.add_argument("subjects", nargs="*", metavar="SUBJECT", help="only these (default: all that are declared)")
    matrix.add_argument("-o", "--output", metavar="FILE", help="write the page, Markdown (default: print it)")
    matrix.add_argument("--json", metavar="FILE", help="write the merged report; `report --matrix` makes pages of it")
    matrix.add_argument("--html", metavar="FILE", help="write the page for a browser: one file, with filters")
    matrix.add_argument(
        "--docs",
        metavar="BASE",
        default="",
        help="the folder docs/ as that page sees it, a path or an address (default: the page's own folder)",
    )
    matrix.add_argument("--badges", metavar="DIR", help="write a badge of each subject there, as SVG")
    matrix.add_argument("--jobs", type=int, default=2, metavar="N", help="subjects at a time (default 2)")
    matrix.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all cases (default 0)")
    matrix.add_argument("--max-examples", type=count, metavar="N", help="cases per check (default: the subject's)")
    matrix.add_argument("--shrink", action="store_true", help="look for the smallest case of each failure: slower")
    matrix.add_argument(
        "--clause", action="append", default=[], metavar="ID", help="only this clause or family; may be repeated"
    )
    matrix.add_argument(
        "--waivers", metavar="FILE", help="known failures (default: the list that ships with the suite)"
    )
    matrix.add_argument(
        "--smoke", action="store_true", help="only ask whether every adapter still runs: few clauses, few cases"
    )
    matrix.add_argument("--patience", type=float, default=900.0, metavar="S", help="seconds per subject (default 900)")
    matrix.add_argument(
        "--rows", metavar="DIR", type=Path, help="keep each row there, and take those that are there instead of a run"
    )
    matrix.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for one case (default 120)")
    add_subject_options(matrix)
    matrix.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Run, merge and write; 0 only if every subject that ran had no failure that is not known."""
    from bnspec_conformance.matrix.badges import write_badges
    from bnspec_conformance.matrix.collect import collect, known_failures
    from bnspec_conformance.matrix.markdown import page
    from bnspec_conformance.matrix.merge import merged
    from bnspec_conformance.matrix.page.link import base_problem
    from bnspec_conformance.matrix.page.page import write_matrix_page
    from bnspec_conformance.report import write_json
    from bnspec_conformance.report.files.atomic_write import write_text
    from bnspec_conformance.report.files.output_paths import unusable
    from bnspec_conformance.subjects import SubjectError, known_subjects

    outputs = {"--output": options.output, "--json": options.json, "--html": options.html}
    problem = unusable(outputs, {"--badges": options.badges}) or base_problem(options.docs) or _twice(options.subjects)
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    usual = [name for name in known_subjects() if name not in _AGAIN]
    try:
        names = named(options.subjects, options) if options.subjects else named_of_those_that_take(usual, options)
    except SubjectError as error:
        print(error, file=sys.stderr)
        return 2
    if options.smoke:
        options.max_examples = options.max_examples or 2
        options.clause = options.clause or list(_SMOKE)
    arguments = ["--seed", str(options.seed)]
    arguments += [] if options.shrink else ["--no-shrink"]  # most failures are known, and told in words
    arguments += [] if options.deadline is None else ["--deadline", str(options.deadline)]
    arguments += [] if options.max_examples is None else ["--max-examples", str(options.max_examples)]
    arguments += ["--sizes", "none"] if options.smoke else []
    arguments += [word for clause in options.clause for word in ("--clause", clause)]

    def asked_of(name: str) -> list[str]:
        """Return the arguments for one subject; few cases miss known failures, which makes waivers stale."""
        waivers = options.waivers or known_failures(name)
        mine = arguments
        if options.max_examples is None and name in _FEWER:
            mine = [*arguments, "--max-examples", str(_FEWER[name])]
        return mine if options.smoke or waivers is None else [*mine, "--waivers", str(waivers)]

    started = time.perf_counter()
    try:
        rows = collect(names, asked_of, jobs=options.jobs, patience=options.patience, done=_tell, rows=options.rows)
    except ValueError as error:  # a row that was kept, and damaged since
        print(error, file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    ran = [row for row in rows if row.report is not None]
    print(f"{len(ran)} of {len(rows)} subjects ran, in {seconds:.0f} s", file=sys.stderr)
    if not ran:
        return 2
    command = shlex.join(["bnspec-conformance", "matrix", *(names if names != usual else [])])
    report = merged(rows, command, seconds)
    text = page(rows, report, command)
    if options.output is None:
        print(text)
    else:
        write_text(options.output, text)
    if options.json:
        write_json(options.json, report)
    if options.html:
        write_matrix_page(options.html, rows, command, options.docs)
    if options.badges:
        write_badges(options.badges, rows)
    if options.smoke:
        return int(any(row.broken for row in ran))
    asked_for = bool(options.subjects) and len(ran) < len(rows)
    return int(asked_for or any(row.failed for row in rows))


def _twice(names: Sequence[str]) -> str | None:
    """Return None, or that a subject is asked for twice."""
    found = next((name for name in names if names.count(name) > 1), None)
    return None if found is None else f"subject {found!r} is asked for twice; name it once."


def _tell(row: "MatrixRow") -> None:
    """A line for each subject as it is finished."""
    if row.report is None:
        said = f"not run: {row.reason}"
    else:
        outcomes = [check["outcome"] for check in row.report["checks"]]
        kinds = ("passed", "waived", "failed", "stale", "not supported", "untested")
        said = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds if kind in outcomes)
        differs = sum(finding["verdict"] == "differs" for finding in row.findings)
        said += f"; {differs} conventions differ" if differs else ""
    print(f"{row.subject:22} {row.seconds:6.0f} s  {said}", file=sys.stderr, flush=True)
