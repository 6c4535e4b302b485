"""``bnspec-conformance probe``: infer subjects' conventions, and compare them with what they declare."""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from bnspec_conformance.commands.subject_options import add_subject_options, named

if TYPE_CHECKING:
    from bnspec_conformance.probe import Finding
    from bnspec_conformance.subjects import Subject

__all__ = ["call", "register"]

_STYLES = {"same": "green", "differs": "bold red", "ambiguous": "yellow", "undeclared": "", "not observable": "dim"}
_VERDICTS = {"same": "yes", "differs": "NO", "ambiguous": "?", "undeclared": "-", "not observable": ""}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    probe = commands.add_parser("probe", help="infer conventions from the outside and compare with the declared ones")
    probe.add_argument(
        "subjects", nargs="+", metavar="SUBJECT", help="a name, module:attribute, onnx:FILE, or exec:PROGRAM"
    )
    add_subject_options(probe)
    probe.add_argument(
        "--group",
        action="append",
        metavar="NAME",
        help="only this group of conventions, such as running; may be repeated",
    )
    probe.add_argument("--json", metavar="FILE", help="write the findings as JSON; - is the standard output")
    probe.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Print a table for each subject; 0 only if nothing that was measured differs from what is declared."""
    from bnspec_conformance.probe import GROUPS, probe
    from bnspec_conformance.report.files.atomic_write import write_text
    from bnspec_conformance.subjects import SubjectError, find_subject

    unknown = sorted(set(options.group or ()) - set(GROUPS))
    if unknown:
        print(f"unknown groups {', '.join(unknown)}; expected some of {', '.join(GROUPS)}.", file=sys.stderr)
        return 2
    results = []
    try:
        for name in named(options.subjects, options):
            subject = find_subject(name)
            results.append((subject, probe(subject, options.group)))
            if options.json != "-":
                _print(*results[-1])
    except SubjectError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        text = json.dumps(_json(results), indent=1) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            try:
                write_text(options.json, text)
            except OSError as error:
                print(f"the findings cannot be written: {error}; expected a file in a folder.", file=sys.stderr)
                return 2
    return int(any(finding.verdict == "differs" for _, findings in results for finding in findings))


def _print(subject: "Subject", findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bnspec_conformance.subjects import version_of

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    declared = "no dialect" if subject.dialect is None else f"dialect {subject.dialect}"
    console.print(Text(f"\n{subject.name} ({version_of(subject)}), {declared}"))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "convention", "measured", "declared", "by", "same?", ""):
        table.add_column(heading, overflow="fold")
    group = ""
    for finding in findings:
        if finding.verdict == "not observable":
            continue
        style = _STYLES[finding.verdict]
        table.add_row(
            "" if finding.group == group else finding.group,
            finding.convention,
            Text(finding.measured, style=style),
            Text(finding.declared),  # as Text, because brackets in a string are markup
            finding.source,
            Text(_VERDICTS[finding.verdict], style=style),
            Text("" if finding.verdict == "same" else finding.note),
        )
        group = finding.group
    console.print(table)
    unseen: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict == "not observable":
            unseen.setdefault(finding.note, []).append(finding.convention)
    for reason, conventions in unseen.items():
        console.print(Text(f"not observable, for {reason}: {', '.join(conventions)}", style="dim"))
    verdicts = [finding.verdict for finding in findings]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in _VERDICTS if v in verdicts)
    console.print(Text(f"{len(findings)} conventions: {counts}"))


def _json(results: "list[tuple[Subject, list[Finding]]]") -> dict[str, Any]:
    import bnspec
    from bnspec_conformance.subjects import version_of

    return {
        "format": "bnspec-probe/1",
        "bnspec": bnspec.__version__,
        "subjects": [
            {
                "name": subject.name,
                "version": version_of(subject),
                "dialect": subject.dialect,
                "same": not any(f.verdict == "differs" for f in findings),
                "findings": [dataclasses.asdict(f) for f in findings],
            }
            for subject, findings in results
        ],
    }
