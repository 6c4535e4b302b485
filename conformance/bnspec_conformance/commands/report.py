"""``bnspec-conformance report``: a page of several reports, which shows what changed when."""

import argparse
import sys

__all__ = ["call", "register"]

_EPILOG = """exit status: 0 if the page was written, whatever it says; 2 if the call is wrong or the folder has no
report. Files that are no report are named, and left out."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    report = commands.add_parser("report", help="write a page of the history of several reports", epilog=_EPILOG)
    report.add_argument("--history", metavar="DIR", required=True, help="a folder with reports of run --json")
    report.add_argument("-o", "--output", metavar="FILE", required=True, help="write the page: one HTML file")
    report.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Read the reports, write the page, and name what is no report."""
    from bnspec_conformance.report import BadReport
    from bnspec_conformance.report.files.output_paths import unusable
    from bnspec_conformance.report.pages.history import read_history, write_history

    try:
        problem = unusable({"--output": options.output}, {})
        if problem is not None:
            raise BadReport(problem)
        reports, broken = read_history(options.history)
    except BadReport as error:
        print(error, file=sys.stderr)
        return 2
    write_history(options.output, reports, broken)
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
    first, last = reports[0].content["date"][:10], reports[-1].content["date"][:10]
    print(f"wrote {options.output}: {len(reports)} reports from {first} to {last}")
    return 0
