"""``bnspec-conformance vectors``: cases as files, for implementations that no Python can call."""

import argparse
import sys
from pathlib import Path
from typing import Any

from bnspec_conformance.commands.numbers import seconds

__all__ = ["call", "register"]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the three actions."""
    vectors = commands.add_parser("vectors", help="write cases as JSON files, and judge results that come back")
    actions = vectors.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write the vectors")
    export.add_argument("folder", metavar="DIR", type=Path)
    export.add_argument(
        "--profile", metavar="NAME,NAME", default="", help="only these files, such as core,ghost (default: all)"
    )
    export.add_argument("--seed", type=int, default=0, metavar="N", help="of the values that are drawn (default 0)")
    judge = actions.add_parser("verify", help="judge the results of a port")
    judge.add_argument("folder", metavar="DIR", type=Path, help="the exported vectors")
    judge.add_argument("results", metavar="RESULTS", type=Path, help="a results file, or a folder of them")
    judge.add_argument("--json", metavar="FILE", type=Path, help="write the verdict as JSON")
    judge.add_argument(
        "--arithmetic",
        choices=("float64", "twofold", "float32"),
        help="whose bounds to apply (default: as the results declare)",
    )
    judge.add_argument(
        "--bound", choices=("strict", "plain"), help="which bound to apply (default: as the results declare)"
    )
    judge.add_argument("--failures", type=int, default=10, metavar="N", help="how many failures to print (default 10)")
    run = actions.add_parser("run", help="make a results file with a subject")
    run.add_argument("subject", metavar="SUBJECT", help="a name, module:attribute, or exec:PROGRAM on a pipe")
    run.add_argument("folder", metavar="DIR", type=Path, help="the exported vectors")
    run.add_argument("-o", "--output", metavar="RESULTS", type=Path, required=True)
    run.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for one case (default 120; of a program 10)")
    run.add_argument("--isolate", action="store_true", help="run a Python subject in a process of its own")
    vectors.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Do one of the actions; 0 if all is well, 1 if results failed, 2 for files that cannot be used."""
    from bnspec_conformance.subjects import SubjectError
    from bnspec_conformance.vectors.files import BadFile

    actions: dict[str, Any] = {"export": _export, "verify": _verify, "run": _run}
    try:
        return int(actions[options.action](options))
    except (BadFile, SubjectError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename} cannot be written: {error.strerror}.", file=sys.stderr)
    return 2


def _export(options: argparse.Namespace) -> int:
    from bnspec_conformance.vectors.catalogue import FAMILIES
    from bnspec_conformance.vectors.export import export

    families = [name for name in options.profile.split(",") if name]
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        print(f"there are no vectors {unknown[0]!r}; expected some of {', '.join(FAMILIES)}.", file=sys.stderr)
        return 2
    index = export(options.folder, families, options.seed)
    for file in index["files"]:
        print(f"{file['file']:16} {file['cases']:4} cases {file['bytes'] / 1024:8.0f} KiB  {file['about']}")
    size = sum(file["bytes"] for file in index["files"]) / 2**20
    print(f"{index['cases']} cases, {size:.1f} MiB, in {options.folder}; results: docs/vectors.md")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from bnspec_conformance.report import write_json
    from bnspec_conformance.vectors.files import read_results, read_vectors
    from bnspec_conformance.vectors.table import print_verdict
    from bnspec_conformance.vectors.verify import verify

    vectors = read_vectors(options.folder)
    verdict = verify(vectors, read_results(options.results), options.arithmetic, options.bound)
    print_verdict(verdict, vectors, options.failures)
    if options.json is not None:
        write_json(options.json, verdict.to_json())
    return 0 if verdict.passed else 1


def _run(options: argparse.Namespace) -> int:
    from bnspec_conformance.subjects import find_subject
    from bnspec_conformance.subjects.time_limit import PATIENCE
    from bnspec_conformance.vectors.files import read_vectors
    from bnspec_conformance.vectors.run import run_vectors, write_results

    vectors = read_vectors(options.folder)
    subject = find_subject(options.subject, deadline=options.deadline, isolate=options.isolate)
    results = run_vectors(subject, vectors, PATIENCE if options.deadline is None else options.deadline)
    write_results(options.output, results)
    kinds = [next(iter(answer)) for answer in results["results"].values()]
    said = ", ".join(f"{kinds.count(k)} {w}" for k, w in (("ranks", "answered"), ("refused", "refused"),
                                                          ("unsupported", "unsupported")))  # fmt: skip
    lost = len(vectors.cases) - len(kinds)
    said += f", {lost} left out, which it was to refuse and crashed on" if lost else ""
    print(f"{len(vectors.cases)} cases: {said}, in {options.output}")
    return int(bool(lost))
