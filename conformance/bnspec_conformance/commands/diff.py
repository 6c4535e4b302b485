"""``bnspec-conformance diff``: what changed from one report to another."""

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnspec_conformance.report.compare import Change

__all__ = ["call", "register"]

_EPILOG = """exit status: 0 if nothing got worse, 1 if something did: a clause fails that did not, or passes no more; a
subject or a check is gone; with the same seed and number of cases, a worst error grew to more than twice its size. 2 if
a file or the call is wrong."""

_TITLES = {
    "setting": "settings",
    "version": "versions",
    "subject": "subjects",
    "check": "checks",
    "verdict": "verdicts",
    "error": "worst errors",
}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    diff = commands.add_parser("diff", help="compare two reports", epilog=_EPILOG)
    diff.add_argument("old", metavar="OLD.json")
    diff.add_argument("new", metavar="NEW.json")
    diff.add_argument(
        "--pair", nargs=2, action="append", default=[], metavar=("OLD_SUBJECT", "NEW_SUBJECT"),
        help="compare these two, whose names differ; may be repeated",
    )  # fmt: skip
    diff.add_argument("--json", metavar="FILE", help="write the changes as JSON; - is the standard output")
    diff.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Compare and print."""
    from bnspec_conformance.report import BadReport, read_report, write_json
    from bnspec_conformance.report.compare import compare
    from bnspec_conformance.report.files.output_paths import unusable
    from bnspec_conformance.report.pairs import paired, unpaired

    try:
        problem = None if options.json == "-" else unusable({"--json": options.json}, {})
        if problem is not None:
            raise BadReport(problem)
        old, new = read_report(options.old), read_report(options.new)
        changes = compare(paired(old, new, options.pair), new)
    except BadReport as error:
        print(error, file=sys.stderr)
        return 2
    worse = [c for c in changes if c.worse]
    content = {
        "format": "bnspec-diff/1",
        "old": options.old,
        "new": options.new,
        "pairs": options.pair,
        "worse": len(worse),
        "changes": [c.to_json() for c in changes],
    }
    if options.json == "-":
        print(json.dumps(content, indent=1))
    else:
        if options.json is not None:
            write_json(options.json, content)
        _print(changes)
        number = f"{len(changes)} change" + ("" if len(changes) == 1 else "s")
        print(f"{number}, {len(worse)} for the worse" if changes else "no change")
        for was, now in unpaired(old, new, options.pair):
            print(f"other names: {shlex.join(['--pair', was, now])} compares these two")
    return int(bool(worse))


def _print(changes: "list[Change]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for kind, title in _TITLES.items():
        mine = [c for c in changes if c.kind == kind]
        if not mine:
            continue
        shown = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
        for heading in ("subject", "", "old", "new", ""):
            shown.add_column(heading, overflow="fold")
        for change in mine:
            worse = Text("worse", style="bold red") if change.worse else Text("")
            shown.add_row(*(Text(t) for t in (change.subject, change.name, change.old, change.new)), worse)
        console.print(shown)
        console.print()
