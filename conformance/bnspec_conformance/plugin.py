"""The pytest plugin: its options, and the subjects that each check runs on.

A plugin rather than a conftest, so that ``pytest --pyargs bnspec_conformance`` and the console script have
the same options. `bnspec_conformance.run.suite_run` gathers the results; `bnspec_conformance.report` writes them.
"""

import datetime
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bnspec._clauses import LEVELS
from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.cases.inputs.sizes import CHOICES, choice_of
from bnspec_conformance.run.chosen.selection import Selection
from bnspec_conformance.run.items import matches
from bnspec_conformance.run.suite_run import SuiteRun
from bnspec_conformance.subjects import Subject, SubjectError, find_subject, known_subjects
from bnspec_conformance.subjects.time_limit import PATIENCE
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

if TYPE_CHECKING:
    from bnspec_conformance.run.chosen.expected import Expected
    from bnspec_conformance.run.waivers.settlement import Waivers

__all__: list[str] = []

#: Subjects that a plain run of pytest takes where they can be imported, and how many cases per check at most. Of 702
#: attempts of `bnspec-conformance selftest`, 660 find their mutant within 12 cases and 688 within 20. A run of subjects
#: by name gives each its own number.
DEFAULT = {"numpy": 20, "numpy-blocked": 12, "strict": 12, "torch": 12, "jax": 6, "cupy": 12}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; the console script passes the same ones."""
    group = parser.getgroup("bnspec", "conformance of batch normalization")
    group.addoption(
        "--subject",
        action="append",
        metavar="NAME",
        default=[],
        help="what to test: numpy, strict, torch, jax or module:attribute; may be repeated",
    )
    group.addoption(
        "--max-examples", type=int, default=None, metavar="N", help="cases per check (default: the subject's)"
    )
    group.addoption("--bnspec-no-shrink", action="store_true", help="report the first failing case, not the smallest")
    group.addoption("--bnspec-silent", action="store_true", help="write no files: another process of the job does")
    group.addoption("--bnspec-deadline", type=float, default=None, metavar="SECONDS", help="for one case (default 120)")
    group.addoption("--bnspec-isolate", action="store_true", help="run Python subjects in processes of their own")
    group.addoption(
        "--bnspec-sizes",
        choices=CHOICES,
        default="default",
        help="large cases: none, default, or large for more of them",
    )
    group.addoption("--bnspec-seed", type=int, default=0, metavar="N", help="seed of all cases (default 0)")
    group.addoption(
        "--clause",
        action="append",
        metavar="ID",
        default=[],
        help="only checks of this clause or family, such as BN-RUN-3 or BN-RUN; may be repeated",
    )
    group.addoption(
        "--bnspec-profile",
        action="append",
        metavar="NAME",
        default=[],
        help="only this profile of the subjects, and core; may be repeated",
    )
    group.addoption(
        "--bnspec-level",
        choices=LEVELS,
        default=LEVELS[-1],
        help="count failures up to this level (default: all)",
    )
    group.addoption("--bnspec-waivers", metavar="FILE", default=None, help="known failures, as docs/reports.md says")
    group.addoption(
        "--bnspec-update-waivers", action="store_true", help="rewrite the file of waivers to fit what this run finds"
    )
    for kind, text in (("json", "JSON"), ("junit", "JUnit's XML"), ("html", "one HTML file")):
        group.addoption(f"--bnspec-{kind}", metavar="FILE", default=None, help=f"write the result by clause as {text}")
    group.addoption("--bnspec-statement", metavar="FILE", default=None, help="write what may be claimed")
    group.addoption("--bnspec-badge", metavar="FILE", default=None, help="write the badge of the only subject, as SVG")
    group.addoption(
        "--bnspec-failures", metavar="DIR", default=None, help="write each failure to a file that replay can run"
    )
    group.addoption("--bnspec-jobs", type=int, default=1, metavar="N", help="processes that run checks (default 1)")
    group.addoption(
        "--bnspec-last-failed", metavar="FILE", default=None, help="only the checks that failed in this report"
    )
    group.addoption("--bnspec-expect", metavar="FILE", default=None, help="count no failure that this report has too")
    group.addoption("--bnspec-all", action="store_true", help="with a line for each clause that is not supported")
    group.addoption(
        "--bnspec-table", action="store_true", help="print the result by clause, with a progress bar on a terminal"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong call at once, and keep Hypothesis out of the user's folder."""
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "bnspec-hypothesis"))
    examples = config.getoption("--max-examples")
    if examples is not None and examples < 1:
        raise pytest.UsageError(f"--max-examples is {examples}; expected a number >= 1.")
    for wanted in config.getoption("--clause") or []:
        if not any(matches(wanted, known) for known in specification_clauses()):
            raise pytest.UsageError(f"no clause {wanted!r}; `bnspec-conformance list` shows them.")
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers write nothing
        from bnspec_conformance.report.files.output_paths import unusable

        kinds = ("json", "junit", "html", "statement", "badge")
        files = {f"--{kind}": config.getoption(f"--bnspec-{kind}") for kind in kinds}
        if config.getoption("--bnspec-update-waivers"):
            files["--waivers"] = config.getoption("--bnspec-waivers")
        problem = unusable(files, {"--failures": config.getoption("--bnspec-failures")})
        if problem is not None:
            raise pytest.UsageError(problem)
    subjects = _subjects(config)
    if config.getoption("--bnspec-badge") is not None and len(subjects) != 1:
        raise pytest.UsageError(
            f"--badge is for one subject, and {len(subjects)} are asked for; run one, or use `matrix --badges DIR`."
        )
    again, as_before = _failures_before(config, subjects)
    selection = Selection(config.getoption, again)
    suite_run = SuiteRun(config, subjects, _waivers(config), _budget(config), selection, as_before)
    config.pluginmanager.register(suite_run, "bnspec-session")


@pytest.fixture(scope="session")
def look(pytestconfig: pytest.Config) -> Callable[..., Record | None]:
    """Return what runs a check on a subject: in this process, or in one of several."""
    suite_run = pytestconfig.pluginmanager.get_plugin("bnspec-session")
    assert isinstance(suite_run, SuiteRun)
    return suite_run.look


def _budget(config: pytest.Config) -> Budget:
    """Return the budget of each check, as the command line sets it."""
    option = config.getoption
    shrink = not option("--bnspec-no-shrink")
    deadline = option("--bnspec-deadline")
    limit = PATIENCE if deadline is None else float(deadline)
    return Budget(
        option("--max-examples"),
        int(option("--bnspec-seed") or 0),
        shrink,
        limit,
        sizes=choice_of(option("--bnspec-sizes")),
    )


def _subjects(config: pytest.Config) -> dict[str, Subject | str]:
    """Return the subjects by the names they were asked by, or why one is missing; an error if it was asked for."""
    asked = config.getoption("--subject")
    profiles, deadline = config.getoption("--bnspec-profile"), config.getoption("--bnspec-deadline")
    subjects: dict[str, Subject | str] = {}
    for name in asked or [n for n in DEFAULT if n in known_subjects()]:
        if name in subjects:
            raise pytest.UsageError(f"subject {name!r} is asked for twice; name it once.")
        try:
            subject = find_subject(name, deadline=deadline, isolate=bool(config.getoption("--bnspec-isolate")))
            other = next((a for a, s in subjects.items() if not isinstance(s, str) and s.name == subject.name), None)
            if other is not None:
                raise pytest.UsageError(
                    f"{other} and {name} both call themselves {subject.name!r}; test one at a time."
                )
            if profiles:
                from bnspec_conformance.run.restricted import only_profiles

                subject = only_profiles(subject, profiles)
            if not asked:
                subject.examples = min(subject.examples, DEFAULT[name])
            subjects[name] = subject
        except SubjectError as error:
            if asked:  # asked for by name: no silent skip
                raise pytest.UsageError(str(error)) from error
            subjects[name] = str(error)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    return subjects


def _failures_before(
    config: pytest.Config, subjects: Mapping[str, Subject | str]
) -> "tuple[dict[str, set[str]] | None, Expected | None]":
    """Return the checks to run again, and the failures that are expected; None where no report is given."""
    again, as_before = config.getoption("--bnspec-last-failed"), config.getoption("--bnspec-expect")
    if again is None and as_before is None:
        return None, None
    from bnspec_conformance.report import BadReport
    from bnspec_conformance.run.chosen.expected import expected
    from bnspec_conformance.run.chosen.last_failed import last_failed

    names = [s.name for s in subjects.values() if not isinstance(s, str)]
    try:
        return (
            None if again is None else last_failed(again, names),
            None if as_before is None else expected(as_before, names),
        )
    except BadReport as error:
        raise pytest.UsageError(str(error)) from error


def _waivers(config: pytest.Config) -> "Waivers | None":
    path, update = config.getoption("--bnspec-waivers"), bool(config.getoption("--bnspec-update-waivers"))
    if path is None:
        if update:
            raise pytest.UsageError("--update-waivers has no file to write; name it with --waivers FILE.")
        return None
    from bnspec_conformance.run.waivers.file import WaiverError, load_waivers
    from bnspec_conformance.run.waivers.settlement import Waivers

    try:
        entries = () if update and not Path(path).exists() else load_waivers(Path(path))
    except WaiverError as error:
        raise pytest.UsageError(str(error)) from error
    return Waivers(path, entries, datetime.date.today(), update)
