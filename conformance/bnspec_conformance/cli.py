"""The command ``bnspec-conformance``: run the suite on a subject, list the clauses, explain one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bnspec import _clauses

__all__ = ["main"]

_HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if nothing failed."""
    parser = argparse.ArgumentParser(
        prog="bnspec-conformance", description="Check implementations of batch normalization against bnspec's SPEC.md."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="put subjects to the test")
    run.add_argument("subjects", nargs="+", metavar="SUBJECT", help="numpy, strict, torch, jax, or module:attribute")
    run.add_argument("--max-examples", type=int, metavar="N", help="cases per check (default: the subject's)")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all cases (default 0)")
    run.add_argument("-k", metavar="EXPRESSION", help="only checks whose name matches, as pytest's -k")
    run.add_argument(
        "--clause", action="append", default=[], metavar="ID", help="only this clause or family; may be repeated"
    )
    run.add_argument("--json", metavar="FILE", help="write the result as JSON")
    commands.add_parser("list", help="list the clauses and the checks that prove them")
    explain = commands.add_parser("explain", help="print the page of a clause or family")
    explain.add_argument("clause", metavar="CLAUSE")
    options = parser.parse_args(arguments)
    if options.command == "explain":
        return _explain(options.clause)
    if options.command == "list":
        return _list()
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    import pytest

    # Nothing of the user's folder may change the run, and the run leaves nothing there.
    given = [
        "-c",
        str(_HERE / "pytest.ini"),
        "--rootdir",
        str(_HERE),
        "--import-mode=importlib",
        "--noconftest",
        "-p",
        "bnspec_conformance.plugin",
        "-p",
        "bnspec_conformance.quiet",
        "-p",
        "no:cacheprovider",
        "--pyargs",
        "bnspec_conformance",
        "-q",
        "--no-header",
        "--no-summary",
        "--show-capture=no",
        "--bnspec-table",
        "--bnspec-seed",
        str(options.seed),
    ]
    for subject in options.subjects:
        given += ["--subject", subject]
    for clause in options.clause:
        given += ["--clause", clause]
    if options.max_examples is not None:
        given += ["--max-examples", str(options.max_examples)]
    if options.k:
        given += ["-k", options.k]
    if options.json:
        given += ["--bnspec-json", str(Path(options.json).absolute())]
    sys.dont_write_bytecode = True
    return int(pytest.main(given))


def _list() -> int:
    from bnspec_conformance.checks import checks

    proofs = checks()
    for clause, entry in _clauses.clauses().items():
        first = " ".join(entry.text.split())
        print(f"{clause:13} {first[:96]}")
        for name in proofs.get(clause, []):
            print(f"{'':13}   {name}")
    return 0


def _explain(clause: str) -> int:
    from bnspec_conformance.checks import checks

    try:
        print(_clauses.page(clause))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    proofs = checks().get(clause, [])
    if proofs:
        print(f"\n{clause} is proved by " + ", ".join(proofs))
    return 0
