"""The command ``bnspec``: what is installed here, what the specification says, which dialects there are.

Each subcommand imports what it needs when it runs, so that ``bnspec spec`` works where no array
library does.
"""

import argparse
import sys
from collections.abc import Sequence

import bnspec
from bnspec._conversion.command import add_arguments
from bnspec._screen import command, open_closed
from bnspec._table import table

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0, or 2 when an argument names something unknown, or a variable of the environment cannot be understood.
    """
    if argv is None:
        open_closed()
    return command("bnspec", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except (LookupError, ValueError, TypeError, ImportError) as error:  # what was refused
        if isinstance(error, TypeError | ImportError) and "[BN-" not in str(error):
            raise
        print(f"bnspec: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bnspec", description="Batch normalization as an executable specification.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {bnspec.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    backends = commands.add_parser("backends", help="list the backends and what each can use on this machine")
    backends.set_defaults(run=_backends)

    spec = commands.add_parser("spec", help="print the specification, or one clause or page of it")
    spec.add_argument("clause", nargs="?", metavar="CLAUSE", help="a clause (BN-RUN-3) or a family (BN-RUN)")
    spec.set_defaults(run=_spec)

    dialects = commands.add_parser("dialects", help="list the frameworks whose conventions are known")
    dialects.set_defaults(run=_dialects)

    convert = commands.add_parser("convert", help="move the batch-norm layers of a checkpoint to another framework")
    add_arguments(convert)

    diff = commands.add_parser("diff-dialects", help="show in which conventions two frameworks differ, and by how much")
    diff.add_argument("first", metavar="DIALECT", help="such as torch")
    diff.add_argument("second", metavar="DIALECT", help="such as keras")
    diff.set_defaults(run=_diff_dialects)
    return parser


def _backends(options: argparse.Namespace) -> None:
    from bnspec._discovery import known_backends

    rows = [("backend", "status", "version", "kernels", "devices", "dtypes")]
    remarks = []
    for backend in known_backends():
        # A library that is not there has no version; one that is there may still find no device.
        status = "ready" if backend.available else "no device" if backend.version else "missing"
        about = (backend.name, status, backend.version or "-", backend.kernels or "-")
        rows.append((*about, _joined(backend.devices), _joined(backend.dtypes)))
        if backend.reason:
            remarks.append(f"{backend.name}: {backend.reason}")
        if status == "missing" and backend.extra:
            remarks.append(f"{backend.name}: pip install 'bnspec[{backend.extra}]'")
    print(table(rows))
    if len(rows) == 1:
        remarks.append("No backend is registered; they are found once bnspec is installed (pip install bnspec).")
    if remarks:
        print("", *remarks, sep="\n")


def _spec(options: argparse.Namespace) -> None:
    from bnspec._clauses import clauses, page, specification

    if options.clause is None:
        print(specification().rstrip())
        return
    clause = clauses().get(options.clause.upper())
    if clause is None:
        print(page(options.clause))
    else:
        profiles = ", ".join(clause.profiles)
        print(f"{clause.id} ({clause.title_of_page}; level {clause.level}; profile {profiles})\n\n{clause.text}")


def _diff_dialects(options: argparse.Namespace) -> None:
    from bnspec._conversion.differences import run

    run(options)


def _dialects(options: argparse.Namespace) -> None:
    from bnspec._dialects import dialects

    rows = [("dialect", "epsilon", "decay", "correction", "momentum weighs", "what was looked at")]
    for row in dialects:
        correction = f"{row.correction}, fused path only" if row.fused_correction else str(row.correction)
        rows.append((row.name, f"{row.epsilon:g}", f"{row.decay:g}", correction, row.momentum_weighs, row.title))
    print(table(rows))


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) or "-"
