"""``bnspec-conformance list``: the clauses and the checks that prove them."""

import argparse

from bnspec import _clauses

__all__ = ["call", "register"]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command, which has no arguments."""
    commands.add_parser("list", help="list the clauses and the checks that prove them").set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Print a line for each clause, with its level and profiles, and one for each of its checks."""
    from bnspec_conformance.run.engine import checks

    proofs = checks()
    for clause, entry in _clauses.clauses().items():
        first = " ".join(entry.text.split())
        print(f"{clause:13} {entry.level:4}{', '.join(entry.profiles):18} {first[:88]}")
        for name in proofs.get(clause, []):
            print(f"{'':13}   {name}")
    return 0
