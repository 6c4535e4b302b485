"""Hints: another declaration of arithmetic or bound under which a failing case would pass.

A hint is found by judging the same case again, with the bounds that would follow from the other declaration. A hint
says how the numbers look, and not how the code computes: only its author knows that, and declares it or mends it.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from bnspec_conformance.bounds.declared import ARITHMETICS, checked_evaluation
from bnspec_conformance.cases.codecs.argument_codec import argument_from_json
from bnspec_conformance.cases.codecs.codec import BadData
from bnspec_conformance.run.engine import Check, attempt
from bnspec_conformance.run.restricted import Restricted
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record
from bnspec_conformance.trials.violations.violation import declaration_text

__all__ = ["hinted"]

Declaration = dict[str, Any]

#: The outputs that each of E's formulas is of.
_FORMULAS = {"y": "y", "ydot": "y", "dx": "dx"}


def hinted(record: Record, check: Check, subject: Subject, budget: Budget) -> Record:
    """Return the record of a failed check with the hints that its violations give.

    Parameters
    ----------
    record : Record
    check : Check
        Of the record.
    subject : Subject
    budget : Budget
        Of the attempt that failed.
    """
    if record.outcome != "failed" or record.violation is None:
        return record
    violations = [_with_hint(v, check, subject, budget) for v in (record.violation, *record.others)]
    lines = [_line(v, len(violations) > 1) for v in violations if "would_pass_with" in v]
    # After an empty line, so that the script above can be copied as it stands.
    reason = "\n\n".join([record.reason, *(["\n".join(lines)] if lines else [])])
    return dataclasses.replace(record, reason=reason, violation=violations[0], others=violations[1:])


def _line(violation: Mapping[str, Any], several: bool) -> str:
    which = f"{' and '.join(violation['clauses'])}: " if several else ""
    return f"  hint      {which}this case would pass with {declaration_text(violation['would_pass_with'])}"


def _with_hint(violation: dict[str, Any], check: Check, subject: Subject, budget: Budget) -> dict[str, Any]:
    """Return a violation with the narrowest declaration under which its case passes, where there is one."""
    if not _is_a_matter_of_bounds(violation):
        return violation
    drawn: dict[str, Any] = {}
    if "drawn" in violation:
        if violation["drawn"] is None:  # no other case will do
            return violation
        try:
            drawn["drawn"] = argument_from_json(violation["drawn"])
        except BadData:
            return violation
    declarations = list(_declarations(subject, str(violation.get("what"))))
    if not declarations:
        return violation
    *narrower, widest = declarations
    if not _passes(widest, check, subject, budget, drawn):  # nor does it with a narrower one
        return violation
    found = next((each for each in narrower if _passes(each, check, subject, budget, drawn)), widest)
    return violation | {"would_pass_with": found}


def _is_a_matter_of_bounds(violation: Mapping[str, Any]) -> bool:
    """Return whether a wider bound could hold an error; what must be the same to the bit has none."""
    error, bound = (float(violation.get(name, "nan")) for name in ("error", "bound"))
    return math.isfinite(error) and math.isfinite(bound) and bound > 0


def _declarations(subject: Subject, output: str) -> Iterator[Declaration]:
    """Yield declarations other than the subject's own, from the narrowest bound to the widest."""
    own, formula = checked_evaluation(subject.evaluation), _FORMULAS.get(output)
    wider = ARITHMETICS[: ARITHMETICS.index(subject.arithmetic)][::-1]  # in bounds; as formats they are narrower
    elementwise: Declaration = {}
    if formula is not None and wider and own.get(formula) != "float32":
        elementwise = {"evaluation": own | {formula: "float32"}}
        yield elementwise
    plain: Declaration = {} if subject.bound == "plain" else {"bound": "plain"}
    if plain:
        yield plain
    for name in wider:
        yield {"arithmetic": name}
    if elementwise and plain:
        yield elementwise | plain
    if plain and wider:
        yield {"arithmetic": "float32"} | plain


def _passes(declaration: Declaration, check: Check, subject: Subject, budget: Budget, drawn: Mapping[str, Any]) -> bool:
    other = cast(Subject, Restricted(subject, **declaration))
    found = attempt(check, other, budget, **drawn)
    return found.outcome in ("passed", "untested") and found.violation is None and found.examples > 0
