"""The command ``bnspec-conformance``; each subcommand is a file in `bnspec_conformance.commands`."""

import argparse
import sys
from collections.abc import Sequence

from bnspec._screen import command, open_closed
from bnspec_conformance import commands
from bnspec_conformance.run.environment import undisturbed, with_asserts

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 if all is well, 1 if something failed, 2 for a wrong call."""
    if arguments is None:
        open_closed()
        with_asserts(sys.argv[1:])
    given = sys.argv[1:] if arguments is None else list(arguments)
    return command("bnspec-conformance", lambda: _run(given))


def _run(given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bnspec-conformance", description="Check implementations of batch normalization against bnspec's SPEC.md."
    )
    commands.register(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    options = parser.parse_args(given, argparse.Namespace(given=given))
    with undisturbed():
        return int(options.call(options))
