"""``bnspec-conformance report``: pages made of reports that were written before; nothing is run."""

import argparse
import shlex
import sys

__all__ = ["call", "register"]

_EPILOG = """exit status: 0 if the page was written, whatever it says; 2 if the call is wrong or there is no report to
make it of. Files of --history that are no report are named, and left out; one of --matrix is an error."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    report = commands.add_parser("report", help="write a page of several reports, without running", epilog=_EPILOG)
    kind = report.add_mutually_exclusive_group(required=True)
    kind.add_argument("--history", metavar="DIR", help="what changed when: a folder with reports of run --json")
    kind.add_argument(
        "--matrix", metavar="FILE", nargs="+", help="subjects side by side: reports of matrix --json or run --json"
    )
    report.add_argument("-o", "--output", "--html", metavar="FILE", required=True, help="write the page: one HTML file")
    report.add_argument("--badges", metavar="DIR", help="with --matrix: write a badge of each subject there, as SVG")
    report.add_argument(
        "--docs",
        metavar="BASE",
        default="",
        help="with --matrix: the folder docs/ as the page sees it, a path or an address (default: the page's folder)",
    )
    report.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Read the reports, write the page, and name what is no report."""
    from bnspec_conformance.report import BadReport
    from bnspec_conformance.report.files.output_paths import unusable

    try:
        problem = unusable({"--output": options.output}, {"--badges": options.badges})
        if problem is None and options.history is not None and (options.badges is not None or options.docs):
            problem = "--badges and --docs go with --matrix; a page of the history has neither."
        if problem is not None:
            raise BadReport(problem)
        return _matrix(options) if options.history is None else _history(options)
    except BadReport as error:
        print(error, file=sys.stderr)
        return 2


def _history(options: argparse.Namespace) -> int:
    from bnspec_conformance.report.pages.history import read_history, write_history

    reports, broken = read_history(options.history)
    write_history(options.output, reports, broken)
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
    first, last = reports[0].content["date"][:10], reports[-1].content["date"][:10]
    print(f"wrote {options.output}: {len(reports)} reports from {first} to {last}")
    return 0


def _matrix(options: argparse.Namespace) -> int:
    from bnspec_conformance.matrix.badges import write_badges
    from bnspec_conformance.matrix.page.link import base_problem
    from bnspec_conformance.matrix.page.page import write_matrix_page
    from bnspec_conformance.matrix.read import read_rows
    from bnspec_conformance.report import BadReport

    problem = base_problem(options.docs)
    if problem is not None:
        raise BadReport(problem)
    rows = read_rows(options.matrix)
    write_matrix_page(options.output, rows, shlex.join(["bnspec-conformance", *options.given]), options.docs)
    print(f"wrote {options.output}: {sum(row.report is not None for row in rows)} of {len(rows)} subjects ran")
    if options.badges is not None:
        for path in write_badges(options.badges, rows):
            print(f"wrote {path}")
    return 0
