"""Run of the vectors on a subject, and the file of its results, as a port would write it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.bounds.declared import checked_evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, as_float64
from bnspec_conformance.cases.limits import FLOATS, REFUSED
from bnspec_conformance.cases.scope import PROFILES, Scope, needs
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.subjects import NotSupported, ProgramError, Subject, SubjectError, silenced, version_of
from bnspec_conformance.subjects.time_limit import PATIENCE, TooLong, deadline
from bnspec_conformance.vectors.files import RESULTS, Vectors, undeclarable
from bnspec_conformance.vectors.hex import array_of, encoded, lines, unhexed

__all__ = ["case_of", "run_vectors", "write_results"]

#: Clauses whose refusals an option asks for: `single_value` and `nonfinite`.
_BY_OPTION = ("BN-RUN-4", "BN-RUN-10")


def run_vectors(subject: Subject, vectors: Vectors, limit: float = PATIENCE) -> dict[str, Any]:
    """Run the vectors and return the content of a results file; a crash, or a case that takes longer, is an error.

    Raises
    ------
    SubjectError
        For a subject that declares what does not exist.
    """
    declared = {
        "arithmetic": subject.arithmetic,
        "evaluation": checked_evaluation(subject.evaluation),
        "bound": subject.bound,
        "flushes_subnormals": subject.flushes,
    }
    wrong = undeclarable(declared)
    if wrong is not None:
        raise SubjectError(f"subject {subject.name!r} declares {wrong}")
    limit = getattr(subject, "patience", limit)  # of a subject that keeps a deadline of its own
    return {
        "format": RESULTS,
        "name": subject.name,
        "version": version_of(subject),
        **declared,
        "results": {name: _answer(subject, value, limit) for name, value in vectors.cases.items()},
    }


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a results file."""
    write_text(path, "".join(lines(results)) + "\n")


def case_of(value: dict[str, Any]) -> Case:
    """Return the case of a vector.

    Raises
    ------
    ValueError, TypeError
        For a configuration that no `BatchNormConfig` can have.
    """
    inputs = value["inputs"]

    def arrays(name: str) -> tuple[Array, ...] | None:
        return tuple(map(array_of, inputs[name])) if name in inputs else None

    def number(field: Any) -> Any:
        return unhexed(field) if field in ("nan", "inf", "-inf") else field

    config = {k: number(v) for k, v in value["config"].items() if k != "renorm"}
    renorm = value["config"]["renorm"]
    config["renorm"] = None if renorm is None else {k: number(v) for k, v in renorm.items()}
    one: dict[str, Any] = {n: array_of(inputs[n]) for n in ("gamma", "beta", "gamma_dot", "beta_dot") if n in inputs}
    return Case(
        config=BatchNormConfig.from_json(json.dumps(config)),
        ranks=tuple(RankInputs(**{k: array_of(v) for k, v in rank.items()}) for rank in inputs["ranks"]),
        dmean=arrays("dmean"),
        dvar=arrays("dvar"),
        state={k: array_of(v) for k, v in inputs["state"].items()} if "state" in inputs else None,
        mode=value["mode"],
        update=value["update"],
        note=value["id"],
        **one,
    )


def _answer(subject: Subject, value: dict[str, Any], limit: float) -> dict[str, Any]:
    try:
        case = case_of(value)
    except (ValueError, TypeError) as error:
        if subject.backend is not None:  # its configuration is bnspec's
            return {"refused": str(error)}
        return {"unsupported": f"such a configuration cannot be put to it: {error}"}
    clause = value["refused"]["clause"] if value["expect"] == "refused" else None
    reason = _unsupported(subject, case) if clause is None else _not_asked(subject, case, clause)
    if reason is not None:
        return {"unsupported": reason}
    try:
        with np.errstate(all="ignore"), silenced(), deadline(limit):
            return _written(subject.run(case))
    except NotSupported as error:
        return {"unsupported": str(error)}
    except (ProgramError, NotImplementedError, TooLong, SystemExit) as error:  # a crash refuses nothing
        wanted = clause in REFUSED and isinstance(error, ProgramError) and error.answered
        return {"refused" if wanted else "error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a refusal where one is due; elsewhere the verdict makes a failure of it
        return {"refused": f"{type(error).__name__}: {error}"}


def _unsupported(subject: Subject, case: Case) -> str | None:
    """Return why a case is not run: the subject's reason, or a parameter of a dtype that it does not have."""
    for name in ("gamma", "beta"):
        array: Array | None = getattr(case, name)
        if array is not None and array.dtype.name not in (*subject.scope.dtypes, case.ranks[0].x.dtype.name, "float32"):
            return f"it has no {array.dtype.name}, which {name} has"
    return subject.supports(case)


def _not_asked(subject: Subject, case: Case, clause: str) -> str | None:
    """Return why the refusal of a case is not asked: as in `run`, a port says which ones it makes."""
    if subject.backend is None and clause not in (*_BY_OPTION, *REFUSED):
        return f"a scope has no word for the refusals of {clause}"
    if subject.backend is None and clause in REFUSED and not subject.scope.turns_away(clause):
        return f"it does not say that it refuses what {clause} has refused"
    reason = _out_of_reach(subject.scope, case)
    return subject.supports(case) if reason is None and clause in _BY_OPTION else reason


def _out_of_reach(scope: Scope, case: Case) -> str | None:
    """Return why a case that has to be refused cannot even be asked for, its one fault aside."""
    missing = [name for name in PROFILES if name in needs(case) - scope.profiles]
    if missing:
        return f"it has no {missing[0]} ({PROFILES[missing[0]]})"
    x, axis = case.ranks[0].x, case.config.axis
    narrow = [v.dtype.name for v in (case.state or {}).values() if v.dtype.name in ("float16", "bfloat16")]
    lacking = [name for name in (x.dtype.name, *narrow) if name in FLOATS and name not in scope.dtypes]
    if lacking:
        return f"it has no {lacking[0]}"
    if (
        x.ndim > 1
        and scope.axes != "any"
        and axis not in ((1, 1 - x.ndim) if scope.axes == "first" else (-1, x.ndim - 1))
    ):
        return f"its channels are on the {'axis after the samples' if scope.axes == 'first' else 'last axis'}"
    if not scope.ragged and len({rank.x.shape for rank in case.ranks}) > 1:
        return "its ranks are a mapped axis, so that all have one shape"
    return scope.without_option(case)


def _written(outcome: Outcome) -> dict[str, Any]:
    ranks = []
    for rank in outcome.ranks:
        fields = {k: v for k, v in vars(rank).items() if v is not None and k != "state"}
        found: dict[str, Any] = {name: _array(values) for name, values in fields.items()}
        if rank.state is not None:
            found["state"] = {name: _array(values) for name, values in rank.state.items()}
        ranks.append(found)
    return {"ranks": ranks}


def _array(values: Array) -> dict[str, Any]:
    plain = values if values.dtype.kind in "iu" or values.dtype.name in FLOATS else as_float64(values)
    return encoded(plain)
