"""One file per failure, which `replay` runs again anywhere; and the failures of such files and of reports."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnspec_conformance.cases.inputs.sizes import Choice
from bnspec_conformance.report.json_document import BadReport, plain, read_json, record_from_json, write_json
from bnspec_conformance.trials.record import Record

__all__ = ["FAILURE_FORMAT", "Failures", "failure_head", "failure_name", "read_failures", "write_failures"]

FAILURE_FORMAT = "bnspec-failure/1"


@dataclass(frozen=True)
class Failures:
    """The failures of a file, with what a check that draws its own cases needs to draw them again."""

    bnspec: str
    seed: int
    max_examples: int | None
    sizes: Choice
    asked: Mapping[str, str]  # what finds a subject, by its name
    records: tuple[Record, ...]


def failure_name(subject: str, check: str) -> str:
    """Return the file's name for a failure of a check on a subject."""
    return f"{_word(subject)}--{_word(check.replace('::', '.'))}.json"


def write_failures(folder: Path, content: Mapping[str, Any], checks: Sequence[Record]) -> list[tuple[Path, Record]]:
    """Write one file per failure of a report, waived ones included.

    Returns the files with what is in them. Files of the same names that an earlier run left, for checks that pass now,
    are removed.

    Parameters
    ----------
    folder : Path
    content : mapping
        The report.
    checks : sequence of Record
        Its records.
    """
    written = []
    asked = {s["name"]: s["asked"] for s in content["subjects"]}
    head = failure_head(content)
    for record in checks:
        path = folder / failure_name(record.subject, record.check)
        if record.violation is None:
            path.unlink(missing_ok=True)
            continue
        write_json(path, head | {"asked": asked[record.subject], "record": plain(record.to_json())})
        written.append((path, record))
    return written


def failure_head(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about the run that a failure file holds."""
    facts = (
        "bnspec",
        "python",
        "platform",
        "machine",
        "device",
        "versions",
        "command",
        "seed",
        "max_examples",
        "sizes",
    )
    return {"format": FAILURE_FORMAT} | {k: content[k] for k in facts}


def read_failures(path: Path) -> Failures:
    """Read the failures of a failure file or of a report.

    Raises
    ------
    BadReport
        If it is neither.
    """
    content = read_json(path, "report" if _looks_like_a_report(path) else "failure")
    if "checks" in content:
        found, asked = content["checks"], {s["name"]: s["asked"] for s in content["subjects"]}
        found = found + ([content["running"]] if content.get("running") else [])
    else:
        found, asked = [content["record"]], {content["record"]["subject"]: content["asked"]}
    records = tuple(record_from_json(r) for r in found if r["violation"] is not None)
    sizes = content.get("sizes", "none")
    return Failures(content["bnspec"], content["seed"], content["max_examples"], sizes, asked, records)


def _looks_like_a_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadReport(f"{path} is no JSON file that can be read: {error}") from None
    return isinstance(content, dict) and "checks" in content


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "_"
