"""The command ``bnspec convert``: a checkpoint of one framework becomes one of another."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bnspec._conversion.checkpoint import Checkpoint, convert_checkpoint
from bnspec._conversion.files import read_checkpoint, write_checkpoint
from bnspec._conversion.options import Options, options_text, read_options
from bnspec._conversion.others import read_places
from bnspec._conversion.report import report
from bnspec._conversion.template import into_template
from bnspec._conversion.variance import Count, checked_count
from bnspec._dialect import Dialect
from bnspec._dialects import dialects
from bnspec._errors import refusal
from bnspec._files.disk import read_regular, write_atomically

__all__ = ["add_arguments", "run"]

_R = TypeVar("_R")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the file to read; its suffix says the format")
    names = ", ".join(dialects.names())
    add("--from", dest="source", required=True, metavar="DIALECT", help=f"whose file it is, one of {names}")
    add("--to", dest="target", required=True, metavar="DIALECT", help="for whom it is written, one of the same")
    add("-o", "--out", required=True, metavar="OUT", help="the file to write; its suffix says the format")
    config = (
        "options of MODEL's layers (epsilon, momentum, ...) that MODEL does not hold; MODEL.layers.json if it is there"
    )
    add("--config", metavar="FILE", help=config)
    add("--template", metavar="FILE", help="a file of the target's model, whose layers are given the values")
    add("--template-config", metavar="FILE", help="the same as --config, for the template")
    add("--count", metavar="N", help='elements of a channel in a batch of training, or "keep": see bnspec.convert')
    add("--rank", type=int, default=4, metavar="N", help="axes of x, where the target's variables keep them (4)")
    add("--axis", type=int, metavar="N", help="the channels' axis there")
    only = "convert only layers whose whole name is like this, * standing for anything; may be repeated"
    add("--only", action="append", default=[], metavar="PATTERN", help=only)
    rename = "name a layer in the target; OLD is its name in the report's first column; may be repeated"
    add("--rename", action="append", default=[], metavar="OLD=NEW", help=rename)
    add("--others", metavar="FILE", help="names and axes of arrays that belong to no layer, such as kernels")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert, write the file and the layers' options beside it, and print the report."""
    source, target = (dialects[name.replace("-", "_")] for name in (options.source, options.target))
    options.config = options.config or _written_beside(options.model)
    if options.template is not None:
        options.template_config = options.template_config or _written_beside(options.template)
    _refuse_same_file(options)
    layers, names = _config(options.config, source)
    given = read_checkpoint(options.model, source, layers, names)
    _check_named(layers, given, source)
    there = None
    if options.template is not None:
        there = read_checkpoint(options.template, target, *_config(options.template_config, target))
    converted = convert_checkpoint(
        given,
        source,
        target,
        count=_count(options.count),
        rank=options.rank,
        axis=options.axis,
        only=options.only,
        rename=_renamed(options.rename),
        others={} if options.others is None else _told(options.others, read_places),
    )
    template = None
    if there is not None:
        into_template(converted, there, target)
    if options.template is not None and not os.path.isdir(options.template):  # a folder has no more than its arrays
        template = read_regular(options.template, lambda file, size: None)
    write_checkpoint(options.out, Checkpoint(converted.arrays, converted.layers), target, template)
    beside = _beside(options.out)
    write_atomically(beside, options_text(converted.layers, target).encode())
    if options.config is not None:
        converted.remarks.append(f"The arguments of its layers are those of {options.config}.")
    print(report(converted))
    print(f"Wrote {options.out}, and the arguments of its layers to {beside}.")


def _beside(out: str) -> Path:
    return Path(f"{out}.layers.json")


def _config(path: str | None, row: Dialect) -> tuple[dict[str, Options], tuple[str, ...]]:
    if path is None:
        return {}, ()
    return _told(path, lambda text: read_options(text, row))


def _told(path: str, read: Callable[[str], _R]) -> _R:
    """Return the meaning of a text file; a refusal names the file."""
    text = read_regular(path, lambda file, size: None).decode("utf-8", "replace")
    try:
        return read(text)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error


def _written_beside(model: str) -> str | None:
    """Return the file that `bnspec convert` wrote beside a model that it made, if it is there."""
    beside = _beside(model)
    return str(beside) if beside.is_file() else None


def _check_named(layers: dict[str, Options], given: Checkpoint, row: Dialect) -> None:
    """Refuse options of layers that are not there: a misspelt name would leave a layer with defaults."""
    prefixes = {name.removesuffix(":0") for name in given.arrays}
    absent = [layer for layer in layers if not any(f"{layer}{row.storage.separator}" in name for name in prefixes)]
    if absent and "" not in absent:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"options of the layers {', '.join(map(repr, absent[:5]))}",
            expected="layers that the file has",
            do="Layers are named as in the file, without the variables' own names.",
        )


def _count(text: str | None) -> Count:
    return checked_count(int(text) if text is not None and text.lstrip("-").isdecimal() else text)


def _renamed(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals:
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got=f"--rename {pair}",
                expected="OLD=NEW",
                do="Name the layer of the source first.",
            )
        found[old] = new
    return found


def _refuse_same_file(options: argparse.Namespace) -> None:
    """Never write what is read."""
    for out in (options.out, _beside(options.out)):
        for given in (options.model, options.config, options.template, options.template_config, options.others):
            if given is not None and os.path.realpath(given) == os.path.realpath(out):
                raise refusal(
                    ValueError,
                    "BN-STATE-4",
                    got=f"{os.fspath(out)!r} as the file to write",
                    expected="a file that is not read",
                    do="Write to another path.",
                )
