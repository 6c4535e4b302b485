"""Page of the commands: the help of ``bnspec``, ``bnspec-conformance`` and of each of their subcommands."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

from bnspec._cli import main as bnspec_main
from bnspec_conformance.cli import main as conformance_main

__all__ = ["PAGE", "command_page"]

PAGE = "reference/commands.md"

_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"bnspec": bnspec_main, "bnspec-conformance": conformance_main}
_LIST = re.compile(r"^  (?:COMMAND|ACTION)\n", re.MULTILINE)
_SUBCOMMAND = re.compile(r"^    ([a-z][a-z-]*)(?=\s)", re.MULTILINE)
#: Columns of the help, which argparse breaks into lines.
_WIDTH = "88"


def command_page() -> str:
    """Return the page, in Markdown."""
    lines = ["# Commands", "", "Printed by each command with `--help`.", ""]
    for program in _COMMANDS:
        for name, text in _helps(program):
            lines += [f"## `{name}`" if name == program else f"### `{name}`", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def _helps(program: str, *words: str) -> Iterator[tuple[str, str]]:
    """Yield a command's name and help, and those of its subcommands."""
    text = _printed(program, *words)
    yield " ".join((program, *words)), text
    _, *listed = _LIST.split(text, maxsplit=1)
    for rest in listed:
        for name in _SUBCOMMAND.findall(rest.partition("\n\n")[0]):
            yield from _helps(program, *words, name)


def _printed(program: str, *words: str) -> str:
    with mock.patch.dict(os.environ, {"COLUMNS": _WIDTH, "NO_COLOR": "1"}):
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            _COMMANDS[program]([*words, "--help"])
    return said.getvalue()
