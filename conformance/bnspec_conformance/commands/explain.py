"""``bnspec-conformance explain``: a clause, where its page is, and what proves it; or the page of a family."""

import argparse
import sys
from importlib.resources import files

from bnspec import _clauses

__all__ = ["call", "register"]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the argument."""
    explain = commands.add_parser("explain", help="print a clause and where its page is, or the page of a family")
    explain.add_argument("clause", metavar="CLAUSE")
    explain.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Print the clause, or the page."""
    from bnspec_conformance.run.engine import checks

    name = options.clause.upper()
    clause = _clauses.clauses().get(name)
    try:
        print(_clauses.page(name) if clause is None else _clause(clause))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    proofs = checks().get(name, [])
    if proofs:
        print(f"\n{name} is proved by " + ", ".join(proofs))
    return 0


def _clause(clause: _clauses.Clause) -> str:
    """Return a clause with its level and profiles, its text, and where it stands."""
    profiles = ", ".join(clause.profiles)
    path = files("bnspec").joinpath("SPEC.md")
    lines = _clauses.specification().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith(f"- **{clause.id}**"))
    return "\n".join(
        [
            f"{clause.id} ({clause.level}; {profiles})",
            "",
            clause.text,
            "",
            f"It stands on the page {clause.title_of_page!r}, which "
            f"`bnspec-conformance explain {clause.family}` prints: {path}, line {number}.",
        ]
    )
