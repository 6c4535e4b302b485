"""A report as JUnit's XML, which continuous integration shows: a suite per subject, a case per clause and check."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnspec_conformance.bounds.declared import evaluation_texts
from bnspec_conformance.cases.levels import LEVELS, within
from bnspec_conformance.report.files.atomic_write import write_bytes
from bnspec_conformance.trials.record import level_of, outcome_of, reason_of

__all__ = ["write_junit"]

#: Characters that XML 1.0 cannot hold, escaped or not.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the report.

    Outcomes that are not supported, untested or waived count as skipped, and so does a failure above the level that the
    run is to count; a stale waiver counts as failed.

    Parameters
    ----------
    path : str or Path
    content : mapping
        The report, as `document` makes it.
    """
    root = ET.Element("testsuites", name="bnspec-conformance", time=_seconds(content["seconds"]))
    totals = {"tests": 0, "failures": 0, "skipped": 0}
    for subject in content["subjects"]:
        suite = _suite(content, subject)
        for key in totals:
            totals[key] += int(suite.attrib[key])
        root.append(suite)
    if content.get("interrupted"):
        root.append(_cut(content))
    errors = len(root.findall("testsuite/testcase/error"))
    root.attrib.update({key: str(n) for key, n in totals.items()} | {"errors": str(errors)})
    ET.indent(root, " ")
    write_bytes(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _suite(content: Mapping[str, Any], subject: Mapping[str, Any]) -> ET.Element:
    name = subject["name"]
    suite = ET.Element("testsuite", name=_text(name), timestamp=content["date"][:19])
    properties = ET.SubElement(suite, "properties")
    said = {key: content[key] for key in ("bnspec", "python", "platform", "machine", "device", "command", "seed")}
    said |= {"specification": content.get("specification", ""), "level": content.get("level", LEVELS[-1])}
    said |= {"max_examples": content["max_examples"] or "the subject's", "subject": subject["version"]}
    said |= {key: subject[key] for key in ("profiles", "dtypes", "arithmetic", "bound", "dialect")}
    said["evaluation"] = list(evaluation_texts(subject.get("evaluation", {})))
    said |= {f"version of {package}": number for package, number in content["versions"].items()}
    for key, value in said.items():
        shown = ", ".join(value) if isinstance(value, list) else str("" if value is None else value)
        ET.SubElement(properties, "property", name=key, value=_text(shown))
    counts, seconds = {"tests": 0, "failures": 0, "skipped": 0}, 0.0
    for record in content["checks"]:
        if record["subject"] != name:
            continue
        seconds += record["seconds"]
        for clause in record["clauses"]:
            case = _case(record, clause, content.get("level", LEVELS[-1]))
            suite.append(case)
            counts["tests"] += 1
            counts["failures"] += case.find("failure") is not None
            counts["skipped"] += case.find("skipped") is not None
    suite.attrib.update({key: str(n) for key, n in counts.items()} | {"errors": "0", "time": _seconds(seconds)})
    return suite


def _cut(content: Mapping[str, Any]) -> ET.Element:
    """Return a suite of one error, for a run that did not come to its end."""
    attributes = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": _seconds(0)}
    suite = ET.Element("testsuite", {"name": "bnspec-conformance", **attributes})
    case = ET.SubElement(suite, "testcase", classname="bnspec-conformance", name="the run as a whole", time=_seconds(0))
    ET.SubElement(case, "error", type="interrupted", message=_text("; ".join(content["notes"]) or "not finished"))
    return suite


def _case(record: Mapping[str, Any], clause: str, limit: str) -> ET.Element:
    """Return one clause's share of a check, its time divided between the clauses so that it adds up."""
    share = record["seconds"] / len(record["clauses"])
    names = {"classname": _text(f"{record['subject']}.{clause}"), "name": _text(record["check"])}
    case = ET.Element("testcase", {**names, "time": _seconds(share)})
    outcome, reason = outcome_of(record, clause), reason_of(record, clause)
    first, level = reason.split("\n")[0], level_of(record, clause)
    if outcome in ("failed", "stale") and not within(level, limit):
        ET.SubElement(case, "skipped", type=outcome, message=_text(f"{outcome} at level {level}: {first}"))
        ET.SubElement(case, "system-out").text = _text(record["reason"])
    elif outcome in ("failed", "stale"):
        failure = ET.SubElement(case, "failure", type=outcome, message=_text(first))
        failure.text = _text(record["reason"])
    elif outcome == "waived":
        waiver = record["waiver"]
        said = [
            "waived: " + waiver["reason"],
            waiver.get("link", ""),
            "until " + waiver.get("expires", "it is removed"),
        ]
        ET.SubElement(case, "skipped", type="waived", message=_text(", ".join(filter(None, said))))
        ET.SubElement(case, "system-out").text = _text(record["reason"])
    elif outcome != "passed":
        message = reason if reason.startswith(f"{outcome}, ") else f"{outcome}: {reason}"
        ET.SubElement(case, "skipped", type=outcome, message=_text(message))
    return case


def _seconds(value: float) -> str:
    return f"{value:.4f}"


def _text(value: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", value)
