"""``bnspec-conformance explain``: the page of a clause, and what proves it."""

import argparse
import sys

from bnspec import _clauses

__all__ = ["call", "register"]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the argument."""
    explain = commands.add_parser("explain", help="print the page of a clause or family")
    explain.add_argument("clause", metavar="CLAUSE")
    explain.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Print the page."""
    from bnspec_conformance.run.engine import checks

    try:
        print(_clauses.page(options.clause))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    proofs = checks().get(options.clause, [])
    if proofs:
        print(f"\n{options.clause} is proved by " + ", ".join(proofs))
    return 0
