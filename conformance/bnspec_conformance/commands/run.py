"""``bnspec-conformance run``: put subjects to the test."""

import argparse
import sys
from pathlib import Path

from bnspec._clauses import LEVELS
from bnspec_conformance.cases.inputs.sizes import CHOICES
from bnspec_conformance.commands.numbers import count, seconds
from bnspec_conformance.commands.subject_options import add_subject_options, named
from bnspec_conformance.subjects.contract import SubjectError

__all__ = ["call", "register"]

#: Subjects whose ranks are the processes of a job: of MPI's, or of this machine for torch.
_MPI, _TORCH = {"mpi", "nccl"}, {"torch-gloo"}

_SUITE = Path(__file__).parent.parent

_EPILOG = """exit status: 0 if nothing failed (what a waiver covers counts as known), 1 if something failed or a waiver
is stale, 2 for a wrong call. Known failures, the reports and replay are described in docs/reports.md."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    run = commands.add_parser("run", help="put subjects to the test", epilog=_EPILOG, allow_abbrev=False)
    run.add_argument(
        "subjects",
        nargs="+",
        metavar="SUBJECT",
        help="a name, module:attribute, onnx:FILE, torchscript:FILE, or exec:PROGRAM",
    )
    add_subject_options(run)
    run.add_argument("--max-examples", type=count, metavar="N", help="cases per check (default: the subject's)")
    run.add_argument(
        "--sizes",
        choices=CHOICES,
        default="default",
        help="large cases: none, default (some seconds), or large (minutes)",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all cases (default 0)")
    run.add_argument(
        "--no-shrink", action="store_true", help="report the first case that fails, not the smallest: quicker"
    )
    run.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for one case (default 120; of a program 10)")
    run.add_argument(
        "--isolate", action="store_true", help="run Python subjects in processes of their own: a crash fails a case"
    )
    run.add_argument("-k", metavar="EXPRESSION", help="only checks whose name matches, as pytest's -k")
    run.add_argument(
        "--clause", action="append", default=[], metavar="ID", help="only this clause or family; may be repeated"
    )
    run.add_argument(
        "--profile", action="append", default=[], metavar="NAME", help="only this profile, and core; may be repeated"
    )
    run.add_argument(
        "--level", choices=LEVELS, default=LEVELS[-1], help="fail only for failures up to this level (default AAA: all)"
    )
    run.add_argument("-x", action="store_true", help="stop at the first failure that counts")
    run.add_argument(
        "--last-failed", metavar="FILE", help="only the checks that failed in this report of an earlier run --json"
    )
    run.add_argument(
        "--expect", metavar="FILE", help="pass if the failures are those of this report of an earlier run --json"
    )
    run.add_argument("--jobs", type=count, default=1, metavar="N", help="processes that run checks (default 1)")
    run.add_argument(
        "--all", action="store_true", help="list clauses that are not supported too, not their number only"
    )
    run.add_argument("--waivers", metavar="FILE", help="known failures, with reasons")
    run.add_argument("--update-waivers", action="store_true", help="rewrite that file to fit what this run finds")
    run.add_argument("--json", metavar="FILE", help="write the result as JSON")
    run.add_argument("--junit", metavar="FILE", help="write the result as JUnit's XML")
    run.add_argument("--html", metavar="FILE", help="write the result as one HTML file")
    run.add_argument("--statement", metavar="FILE", help="write what may be claimed of the subjects, as Markdown")
    run.add_argument("--badge", metavar="FILE", help="write the badge of the only subject, as SVG")
    run.add_argument("--failures", metavar="DIR", help="write each failure to a file that replay can run")
    run.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="with the subject mpi, nccl or torch-gloo: start it as a job of N processes",
    )
    run.add_argument("--of-ranks", type=int, help=argparse.SUPPRESS)  # given to the processes of a job by `_as_job`
    run.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Run the suite; 0 only if nothing failed."""
    if options.ranks is not None:
        return _as_job(options)
    try:
        options.subjects = named(options.subjects, options)
    except SubjectError as error:
        print(error, file=sys.stderr)
        return 2
    if options.of_ranks is not None and not _is_job_of(options):
        return 2
    if options.jobs > 1 and (_MPI | _TORCH) & {*options.subjects}:
        print("--jobs goes with no subject whose ranks are processes: mpi, nccl and torch-gloo.", file=sys.stderr)
        return 2
    import pytest

    from bnspec_conformance.run.stop import stoppable

    # Nothing of the user's folder may change the run, and the run leaves nothing there; `undisturbed` sees to the rest.
    given = ["-c", str(_SUITE / "pytest.ini"), "--rootdir", str(_SUITE), "--import-mode=importlib", "--noconftest"]
    given += ["-p", "bnspec_conformance.plugin", "-p", "bnspec_conformance.run.pytest_output", "-p", "no:cacheprovider"]
    given.append("--assert=plain")  # to rewrite the checks' asserts, at every start, takes a fifth of it
    given += ["--pyargs", "bnspec_conformance", "-q", "--no-header", "--no-summary", "--show-capture=no"]
    given += ["--bnspec-table", *_asked(options)]
    if (_MPI | _TORCH) & {*options.subjects}:  # every process of the job runs all of it, and the first reports
        from bnspec_conformance.run import launch, local_job

        job = local_job if _TORCH & {*options.subjects} else launch
        given += ["--bnspec-silent"] if launch.silence_other_ranks(job.rank_here()) else []
    sys.dont_write_bytecode = True
    with stoppable() as stop:
        status = int(pytest.main(given))
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        print("no check is left: --clause and -k leave nothing in common; `bnspec-conformance list`", file=sys.stderr)
    wrong = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
    status = {**dict.fromkeys(map(int, wrong), 2), int(pytest.ExitCode.INTERRUPTED): 130}.get(status, status)
    return stop.status(status)


def _asked(options: argparse.Namespace) -> list[str]:
    """Return the command line as options of the plugin, one word each, so that no value is taken for an option."""
    words = [f"--bnspec-seed={options.seed}", f"--bnspec-sizes={options.sizes}"]
    words += [f"--subject={name}" for name in options.subjects]
    words += [f"--clause={name}" for name in options.clause]
    words += [f"--bnspec-profile={name}" for name in options.profile]
    words += [] if options.max_examples is None else [f"--max-examples={options.max_examples}"]
    words += [f"--bnspec-level={options.level}"]
    words += [] if options.deadline is None else [f"--bnspec-deadline={options.deadline!r}"]
    words += [f"-k{options.k}"] if options.k else []
    words += ["--maxfail=1"] if options.x else []
    words += [f"--bnspec-jobs={options.jobs}"]
    words += [
        f"--bnspec-{name}"
        for name in ("all", "isolate", "no-shrink", "update-waivers")
        if getattr(options, name.replace("-", "_"))
    ]
    for name in ("json", "junit", "html", "statement", "badge", "failures", "waivers", "last-failed", "expect"):
        value = getattr(options, name.replace("-", "_"))
        words += [] if value is None else [f"--bnspec-{name}={value}"]
    return words


def _is_job_of(options: argparse.Namespace) -> bool:
    """Return whether this is a process of a job of as many as asked for; say so if it is not."""
    from bnspec_conformance.run import launch, local_job

    torch = _TORCH & {*options.subjects}
    if (here := local_job.ranks_here() if torch else launch.ranks_here()) == options.of_ranks:
        return True
    if torch:
        why = "the environment variable WORLD_SIZE was changed"
    else:
        why = "the launcher and the library that mpi4py found belong to two MPIs. Name the right ones by "
        why += "BNSPEC_MPIEXEC and MPI4PY_LIBMPI"
    says = "torch" if torch else "MPI"
    print(f"--ranks asked for {options.of_ranks} processes and {says} says {here}: {why}.", file=sys.stderr)
    return False


def _as_job(options: argparse.Namespace) -> int:
    """Start the same command again as a job."""
    from bnspec_conformance.run.launch import LaunchError, launch
    from bnspec_conformance.run.local_job import launch_here

    if len(options.subjects) != 1 or options.subjects[0] not in _MPI | _TORCH:
        print("--ranks goes with the subject mpi, nccl or torch-gloo alone.", file=sys.stderr)
        return 2
    if options.ranks < 1:
        print(f"--ranks is {options.ranks}; expected a number >= 1.", file=sys.stderr)
        return 2
    given = list(options.given)
    at = next(i for i, word in enumerate(given) if word.split("=")[0] == "--ranks")
    given[at : at + (1 if "=" in given[at] else 2)] = [f"--of-ranks={options.ranks}"]
    try:
        start = launch_here if options.subjects[0] in _TORCH else launch
        return start(options.ranks, ["-m", "bnspec_conformance", *given])
    except LaunchError as error:
        print(error, file=sys.stderr)
        return 2
