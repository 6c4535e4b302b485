"""Two reports side by side: what changed, and whether for the worse."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bnspec_conformance.cases.levels import within

__all__ = ["GROWTH", "Change", "compare"]

#: A worst error that grew by more than this factor is a change.
GROWTH = 2.0

#: Settings that reports of older versions do not have.
_LATER = ("specification", "level")

#: Verdicts from best to worst. A clause that is no longer looked at has lost what was known of it.
_RANK = {"passed": 0, "passed in part": 1, "waived": 2, "untested": 3, "not supported": 3, "unlooked": 4, "failed": 5}


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes
    ----------
    kind : str
        "verdict", "level", "error", "subject", "check", "version" or "setting".
    worse : bool
        Whether it counts against the new report.
    subject, name : str
        Whose, and which clause, check, package or setting; "" where it does not apply.
    old, new : str
    """

    kind: str
    worse: bool
    subject: str
    name: str
    old: str
    new: str

    def to_json(self) -> dict[str, Any]:
        """Return the change as a JSON value."""
        return asdict(self)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the differences between two reports, settings and versions first.

    A verdict is worse if a clause fails that did not, or if one that passed or was waived no longer does; so is a
    failure that shows at a lower level than before. A subject or a check that is gone is worse as well: what it showed
    is no longer shown. A larger error is worse only between runs with the same seed and number of cases; otherwise the
    cases differ.
    """
    return [*_settings(old, new), *_versions(old, new), *_subjects(old, new), *_verdicts(old, new), *_errors(old, new)]


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in ("specification", "seed", "max_examples", "level", "python", "platform", "machine", "device"):
        was, now = old.get(key), new.get(key)
        if was != now and (key in old or key not in _LATER):
            yield Change("setting", False, "", key, str(was), str(now))
    sizes = [_sizes(report) for report in (old, new)]
    if sizes[0] != sizes[1]:
        yield Change("setting", False, "", "sizes", *sizes)


def _sizes(report: Mapping[str, Any]) -> str:
    """Return how many large cases were asked for; reports of older versions had none."""
    return str(report.get("sizes", "none"))


def _versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    was, now = old["versions"], new["versions"]
    for package in sorted({*was, *now}):
        if was.get(package) != now.get(package):
            yield Change("version", False, "", package, was.get(package, "-"), now.get(package, "-"))
    was, now = ({s["name"]: s["version"] for s in report["subjects"]} for report in (old, new))
    for name in now:
        if name in was and was[name] != now[name]:
            yield Change("version", False, name, "subject", was[name], now[name])


def _subjects(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    was, now = ([s["name"] for s in report["subjects"]] for report in (old, new))
    for name in [n for n in was if n not in now]:
        yield Change("subject", True, name, "", "there", "gone")
    for name in [n for n in now if n not in was]:
        yield Change("subject", False, name, "", "-", "new")
    both = [name for name in now if name in was]
    for name in both:
        before, after = (_checks(report, name) for report in (old, new))
        for check in [c for c in before if c not in after]:
            yield Change("check", True, name, check, before[check], "gone")
        for check in [c for c in after if c not in before]:
            yield Change("check", after[check] == "failed", name, check, "-", f"new, {after[check]}")


def _verdicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for clause, name in _pairs(old, new):
        was, now = (_verdict(report, clause, name) for report in (old, new))
        if was != now:
            yield Change("verdict", _RANK[now] > _RANK[was], name, clause, was, now)
        elif was in ("failed", "waived"):
            before, after = (_level(report, clause, name) for report in (old, new))
            if before and after and before != after:
                worse = not within(before, after)
                yield Change("level", worse, name, clause, f"{was} at {before}", f"{now} at {after}")


def _errors(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    alike = all(old[key] == new[key] for key in ("seed", "max_examples")) and _sizes(old) == _sizes(new)
    for clause, name in _pairs(old, new):
        was, now = (_share(report, clause, name) for report in (old, new))
        if was is not None and now is not None and now > GROWTH * was:
            yield Change("error", alike, name, clause, f"{was:.3g} of its bound", f"{now:.3g} of its bound")


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Clauses of either report, with the subjects that both have."""
    names = [s["name"] for s in new["subjects"] if any(s["name"] == o["name"] for o in old["subjects"])]
    for clause in dict.fromkeys([*old["clauses"], *new["clauses"]]):
        for name in names:
            yield clause, name


def _verdict(report: Mapping[str, Any], clause: str, name: str) -> str:
    entry = report["clauses"].get(clause, {"subjects": {}})["subjects"].get(name)
    return "unlooked" if entry is None else str(entry["verdict"])


def _level(report: Mapping[str, Any], clause: str, name: str) -> str | None:
    """Return the level of a failure; reports of older versions have none."""
    found: str | None = report["clauses"][clause]["subjects"][name].get("level")
    return found


def _share(report: Mapping[str, Any], clause: str, name: str) -> float | None:
    entry = report["clauses"].get(clause, {"subjects": {}})["subjects"].get(name)
    return None if entry is None or entry["worst"] is None else float(entry["worst"]["share"])


def _checks(report: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the outcomes of a subject's checks; entries of waivers are none."""
    return {c["check"]: c["outcome"] for c in report["checks"] if c["subject"] == name and c["outcome"] != "stale"}
