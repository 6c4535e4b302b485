"""The subcommands of ``bnspec-conformance``, one file each: `register` declares its arguments and says what runs."""

import argparse
import importlib

__all__ = ["COMMANDS", "register"]

#: In the order of the help text.
COMMANDS = (
    "run",
    "explain",
    "list_",
    "replay",
    "diff",
    "report",
    "new_port",
    "probe",
    "matrix",
    "vectors",
    "selftest",
)


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare every subcommand; each sets ``call``, which takes the parsed options and returns the exit status."""
    for name in COMMANDS:
        importlib.import_module(f"bnspec_conformance.commands.{name}").register(commands)
