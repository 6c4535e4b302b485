"""Judges a port's results by the vectors, clause by clause."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from bnspec._clauses import clauses as specification
from bnspec_conformance.bounds.declared import checked_evaluation
from bnspec_conformance.vectors.files import Results, Vectors
from bnspec_conformance.vectors.hex import hexed
from bnspec_conformance.vectors.judge import Judge, Judgement, Status

__all__ = ["FORMAT", "ORDER", "ClauseVerdict", "Verdict", "verify"]

FORMAT = "bnspec-vectors-verdict/1"

#: Status of a case, or of a clause, with several judgements: the first of these that one of them has.
ORDER: tuple[Status, ...] = ("failed", "passed", "untested", "not supported")


@dataclass(frozen=True)
class ClauseVerdict:
    """One clause: how many cases had which outcome, and the finding nearest to its bound, or furthest beyond it."""

    outcome: Status
    cases: dict[Status, int]
    worst: Judgement | None


@dataclass(frozen=True)
class Verdict:
    """Verdict on a port's results.

    Attributes
    ----------
    results : Results
        Without the numbers: who it was.
    arithmetic : {"float64", "twofold", "float32"}
    bound : {"strict", "plain"}
        The declaration that was judged by: that of the results, or the caller's.
    index : dict
        Of the vectors.
    cases : dict of str to str
        Status of every case of the vectors.
    clauses : dict of str to ClauseVerdict
        In the order of SPEC.md.
    failures : list of Judgement
        In the order of the vectors, then results of cases that do not exist.
    """

    results: Results
    arithmetic: Literal["float64", "twofold", "float32"]
    bound: Literal["strict", "plain"]
    index: dict[str, Any]
    cases: dict[str, Status]
    clauses: dict[str, ClauseVerdict]
    failures: list[Judgement]

    @property
    def passed(self) -> bool:
        """True if nothing failed and something was looked at."""
        return not self.failures and "passed" in self.cases.values()

    def count(self, outcome: Status) -> int:
        """Return the number of cases with this outcome."""
        return sum(1 for own in self.cases.values() if own == outcome)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON value; numbers of findings are hex floats."""
        return {
            "format": FORMAT,
            "passed": self.passed,
            "subject": {
                "name": self.results.name,
                "version": self.results.version,
                "arithmetic": self.arithmetic,
                "evaluation": checked_evaluation(self.results.evaluation),
                "bound": self.bound,
                "flushes_subnormals": self.results.flushes,
            },
            "vectors": {key: self.index[key] for key in ("bnspec", "seed", "spec")},
            "counts": {outcome: self.count(outcome) for outcome in ORDER},
            "clauses": {
                name: {
                    "outcome": own.outcome,
                    "cases": own.cases,
                    "worst": None if own.worst is None else _finding(own.worst),
                }
                for name, own in self.clauses.items()
            },
            "failures": [_finding(failure) for failure in self.failures],
        }


def verify(
    vectors: Vectors,
    results: Results,
    arithmetic: Literal["float64", "twofold", "float32"] | None = None,
    bound: Literal["strict", "plain"] | None = None,
) -> Verdict:
    """Judge results.

    Parameters
    ----------
    vectors : Vectors
    results : Results
    arithmetic : {"float64", "twofold", "float32"}, optional
    bound : {"strict", "plain"}, optional
        The declaration to judge by; by default that of the results.
    """
    own, limit = arithmetic or results.arithmetic, bound or results.bound
    judge = Judge(own, results.flushes, limit, results.evaluation)
    findings = [f for name, case in vectors.cases.items() for f in judge.case(case, results.results.get(name))]
    findings += [
        judge.relation(case, vectors.cases[relation["with"]], relation)
        for case in vectors.cases.values()
        for relation in case.get("relations", [])
    ]
    strangers = [
        Judgement(name, (), "failed", "the case", "there is no such case in these vectors")
        for name in results.results
        if name not in vectors.cases
    ]
    by_case: dict[str, list[Judgement]] = {}
    by_clause: dict[str, dict[str, list[Judgement]]] = {}
    for finding in findings:
        by_case.setdefault(finding.case, []).append(finding)
        for clause in finding.clauses:
            by_clause.setdefault(clause, {}).setdefault(finding.case, []).append(finding)
    order = [name for name in specification() if name in by_clause] + sorted(set(by_clause) - set(specification()))
    failed = [f for f in findings if f.outcome == "failed"]
    place = {name: number for number, name in enumerate(vectors.cases)}
    return Verdict(
        results=dataclasses.replace(results, results={}),
        arithmetic=own,
        bound=limit,
        index=vectors.index,
        cases={name: _joint(by_case[name]) for name in vectors.cases},
        clauses={name: _clause(by_clause[name]) for name in order},
        failures=sorted(failed, key=lambda f: place[f.case]) + strangers,
    )


def _joint(findings: list[Judgement]) -> Status:
    there = {finding.outcome for finding in findings}
    return next(outcome for outcome in ORDER if outcome in there)


def _clause(cases: dict[str, list[Judgement]]) -> ClauseVerdict:
    outcomes = {name: _joint(findings) for name, findings in cases.items()}
    everything = [finding for findings in cases.values() for finding in findings]
    measured = [f for f in everything if f.index is not None and f.outcome in ("passed", "failed")]
    return ClauseVerdict(
        _joint(everything),
        {outcome: sum(1 for own in outcomes.values() if own == outcome) for outcome in ORDER},
        max(measured, key=lambda f: (f.outcome == "failed", f.share), default=None),
    )


def _finding(finding: Judgement) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return hexed(value) if isinstance(value, float) and not math.isfinite(value) else value

    found = {k: plain(v) for k, v in dataclasses.asdict(finding).items()} | {"clauses": list(finding.clauses)}
    return found | {k: hexed(getattr(finding, k)) for k in ("got", "expected", "bound")}
