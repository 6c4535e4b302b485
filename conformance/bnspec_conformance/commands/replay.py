"""``bnspec-conformance replay``: run the counterexamples of a failure file or a report again, on any subject."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnspec_conformance.commands.numbers import seconds

if TYPE_CHECKING:
    from bnspec_conformance.report.files.failures import Failures
    from bnspec_conformance.subjects import Subject
    from bnspec_conformance.trials.record import Record

__all__ = ["call", "register"]

_EPILOG = """A file runs nothing by itself: a subject that does not come with bnspec has to be named with --subject.
Exit status: 0 if nothing fails any more, 1 if something still does, 2 if the file or the call is wrong."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    replay = commands.add_parser("replay", help="run the counterexamples of a file again", epilog=_EPILOG)
    replay.add_argument("file", metavar="FILE", help="of run --failures, or a report of run --json")
    replay.add_argument(
        "--subject",
        metavar="NAME",
        help="run them on this subject: the one that failed, where it does not come with bnspec, or another",
    )
    replay.add_argument("--check", metavar="NAME", help="only this check, such as test_running::test_exponential")
    replay.add_argument("--index", type=int, metavar="N", help="only the Nth of those that are left, from 0")
    replay.add_argument(
        "--deadline", type=seconds, metavar="SECONDS", help="for one case (default 120; of a program 10)"
    )
    replay.add_argument("--isolate", action="store_true", help="run the subject in a process of its own")
    replay.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Run them and say for each whether it still fails."""
    import bnspec
    from bnspec_conformance.report import BadReport, read_failures
    from bnspec_conformance.subjects import SubjectError

    try:
        given = read_failures(Path(options.file))
        records = _chosen(given.records, options)
        subjects = _subjects(records, options, given.asked)
    except (BadReport, LookupError, SubjectError) as error:
        print(error.args[0], file=sys.stderr)
        return 2
    if given.bnspec != bnspec.__version__:
        print(f"found with bnspec {given.bnspec}; this is {bnspec.__version__}, whose checks may differ")
    outcomes = []
    for number, record in enumerate(records):
        found = _again(record, subjects[options.subject or record.subject], given, options.deadline)
        if found is None:
            print(f"{options.file}: the counterexample of {record.check} cannot be read.", file=sys.stderr)
            return 2
        outcomes.append(found.outcome)
        _say(number, record, found)
    if len(outcomes) > 1:
        kinds = dict.fromkeys(outcomes)
        print("\n" + ", ".join(f"{outcomes.count(o)} {_WORDS[o]}" for o in kinds))
    return int("failed" in outcomes)


_WORDS = {
    "failed": "still failing",
    "passed": "passing now",
    "not supported": "not supported",
    "untested": "without information",
}


def _chosen(records: "tuple[Record, ...]", options: argparse.Namespace) -> "list[Record]":
    from bnspec_conformance.run.engine import all_checks

    if not records:
        raise LookupError(f"{options.file} has no failure to run again.")
    names = ", ".join(dict.fromkeys(r.check for r in records))
    found = [r for r in records if options.check is None or options.check in (r.check, r.check.split("::")[-1])]
    if not found:
        raise LookupError(f"{options.file} has no failure of check {options.check!r}; it has {names}.")
    if options.index is not None:
        if not 0 <= options.index < len(found):
            raise LookupError(f"--index is {options.index}; expected 0 to {len(found) - 1}.")
        found = [found[options.index]]
    gone = [r.check for r in found if r.check not in all_checks()]
    if gone:
        raise LookupError(f"this version of the suite has no check {gone[0]!r}; --check leaves it out.")
    return found


def _subjects(records: "list[Record]", options: argparse.Namespace, asked: Mapping[str, str]) -> "dict[str, Subject]":
    from bnspec_conformance.subjects import SubjectError, find_subject, is_ours

    more = {"deadline": options.deadline, "isolate": options.isolate}
    if options.subject is not None:
        return {options.subject: find_subject(options.subject, **more)}
    names = {name: asked.get(name, name) for name in dict.fromkeys(r.subject for r in records)}
    for name in names.values():
        if not is_ours(name):  # a file is not trusted: it starts no program and imports no module
            raise SubjectError(
                f"the file names the subject {name!r}, which runs only if you name it; expected one that comes with "
                f"bnspec, or --subject. If you trust it, add: --subject {shlex.quote(name)}"
            )
    try:
        return {name: find_subject(asked, **more) for name, asked in names.items()}
    except SubjectError as error:
        raise SubjectError(f"{error} Name another one with --subject.") from error


def _again(record: "Record", subject: "Subject", given: "Failures", deadline: float | None) -> "Record | None":
    """Return an attempt on the argument that failed, or on the check's own draws; None if it is unreadable."""
    from bnspec_conformance.cases.codecs.argument_codec import argument_from_json
    from bnspec_conformance.cases.codecs.codec import BadData
    from bnspec_conformance.run.engine import all_checks, attempt
    from bnspec_conformance.subjects.time_limit import PATIENCE
    from bnspec_conformance.trials.budget import Budget

    value = (record.violation or {}).get("drawn")
    argument: dict[str, Any] = {}
    if value is not None:
        try:
            argument["drawn"] = argument_from_json(value)
        except BadData as error:
            print(error, file=sys.stderr)
            return None
    limit = PATIENCE if deadline is None else deadline
    budget = Budget(given.max_examples, given.seed, deadline=limit, sizes=given.sizes)
    return attempt(all_checks()[record.check], subject, budget, **argument)


def _say(number: int, record: "Record", found: "Record") -> None:
    from bnspec_conformance.trials.violations.violation import told_by_ulps

    violation = record.violation or {}
    how = "its counterexample" if violation.get("drawn") is not None else "the whole check, with the recorded seed"
    print(f"\n[{number}] {record.check} ({', '.join(record.clauses)}), {how}")
    print(f"  before    {record.subject}: {violation.get('problem', record.reason)}")
    _numbers(violation)
    print(f"  now       {found.subject}: {_WORDS[found.outcome]}", end="")
    if found.outcome == "failed":
        now = found.violation or {}
        print(f": {now.get('problem', found.reason)}")
        if now.get("case"):
            print(f"  case      {now['case']}")
        _numbers(now)
        for line in str(now.get("script") or "").splitlines():
            print("    " + line)
    elif found.outcome == "passed" and found.worst is not None:
        worst = found.worst
        off = f"{worst.error_ulp:.4g} ulp off, bound {worst.bound_ulp:.4g} ulp"
        print(f"; the worst is {worst.what}, {off if told_by_ulps(vars(worst)) else f'{worst.share:.3g} of its bound'}")
    else:
        print(f": {found.reason}" if found.reason else "")


def _numbers(violation: dict[str, Any]) -> None:
    from bnspec_conformance.trials.violations.violation import difference

    if "got" in violation:
        got, expected = float(violation["got"]), float(violation["expected"])
        print(f"  worst at  {list(violation['index'])} of {violation['what']}")
        print(f"  got       {got!r} ({got.hex()})")
        print(f"  expected  {expected!r} ({expected.hex()})")
        print(f"  error     {difference(violation)}")
