"""The command ``bnspec-conformance``; each subcommand is a file in `bnspec_conformance.commands`."""

import argparse
import os
import sys
from collections.abc import Sequence

from bnspec_conformance import commands
from bnspec_conformance._environment import undisturbed, with_asserts

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 if all is well, 1 if something failed, 2 for a wrong call."""
    if arguments is None:
        with_asserts(sys.argv[1:])
    parser = argparse.ArgumentParser(
        prog="bnspec-conformance", description="Check implementations of batch normalization against bnspec's SPEC.md."
    )
    commands.register(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given, argparse.Namespace(given=given))
    try:
        with undisturbed():
            return int(options.call(options))
    except BrokenPipeError:  # as in `bnspec-conformance list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
