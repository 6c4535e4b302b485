"""Outputs that each clause speaks of, and the cases in which it does: one table for checks, vectors and reports.

`formulas` names the clauses that define an output's value, `clauses_of` all that an output of a case proves, what the
case combines included, and `SPEAKS` the outputs that can show a clause to be broken. A clause whose entry there is
empty speaks of no single output: a check of it says itself what broke it. `bnspec_conformance.cases.features` tells
what a case has beyond a plain batch.
"""

from collections.abc import Mapping
from typing import Literal

from bnspec_conformance.cases.case import Case

__all__ = [
    "EVERY",
    "GHOST",
    "GRADIENTS",
    "MASK",
    "OUTPUTS",
    "SPEAKS",
    "SYNC",
    "clauses_of",
    "formulas",
    "output_named",
    "proving",
    "speaks",
]

OUTPUTS = ("y", "count", "mean", "var", "state", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")

EVERY = " ".join(OUTPUTS)
GRADIENTS = "dx dgamma dbeta"
_TANGENTS = "ydot mean_dot var_dot"

#: The outputs that can show that a clause is broken, words in one text; "state.var" is that array of the state alone.
SPEAKS: Mapping[str, str] = {
    **dict.fromkeys(("BN-SHAPE-1", "BN-SHAPE-5", "BN-SHAPE-6", "BN-GRP-3"), ""),
    "BN-SHAPE-2": EVERY,
    "BN-SHAPE-3": "y dx ydot",
    **dict.fromkeys(("BN-SHAPE-4", "BN-GRP-2", "BN-GRP-4"), EVERY),
    "BN-GRP-1": "count",
    "BN-MOM-1": "count",
    "BN-MOM-2": "mean",
    "BN-MOM-3": "var y",  # y, where a case is right but for its correction
    "BN-MOM-4": "",
    **dict.fromkeys(("BN-MOM-5", "BN-MOM-6", "BN-MOM-8"), "mean var"),
    "BN-MOM-7": "count mean var",
    "BN-MOM-9": EVERY,
    "BN-NORM-2": f"y {GRADIENTS} ydot",
    **dict.fromkeys(("BN-NORM-1", "BN-NORM-3", "BN-NORM-4", "BN-NORM-5"), "y"),
    **dict.fromkeys(("BN-GRAD-1", "BN-GRAD-6", "BN-GRAD-8", "BN-GRAD-9"), "dx"),
    "BN-GRAD-2": "dgamma",
    "BN-GRAD-3": "dbeta",
    "BN-GRAD-4": _TANGENTS,
    "BN-GRAD-5": f"{GRADIENTS} {_TANGENTS}",
    "BN-GRAD-7": GRADIENTS,
    "BN-RUN-1": "state.mean state.var",
    "BN-RUN-2": "",
    "BN-RUN-3": "state.var",
    **dict.fromkeys([f"BN-RUN-{n}" for n in (4, 5, 6, 8, 9, 10, 11)], "state"),
    "BN-RUN-7": f"state y {GRADIENTS} ydot",
    **dict.fromkeys(("BN-RUN-12", "BN-RUN-13", "BN-RUN-14"), ""),
    **dict.fromkeys([f"BN-UPD-{n}" for n in range(1, 8)], "y state"),
    "BN-INF-1": "y",
    "BN-INF-2": EVERY,
    "BN-INF-3": f"{GRADIENTS} ydot",
    "BN-INF-4": "state",
    "BN-INF-5": "",
    "BN-INF-6": EVERY,
    "BN-RENORM-1": "y",
    "BN-RENORM-2": f"{GRADIENTS} ydot",
    "BN-RENORM-3": f"y {GRADIENTS} ydot",
    **dict.fromkeys(("BN-RENORM-4", "BN-RENORM-5", "BN-RENORM-6", "BN-RENORM-9"), "y state"),
    "BN-RENORM-7": "state.var state.stddev state.renorm_stddev y dx",  # y and dx of inference
    "BN-RENORM-8": EVERY,
    "BN-MASK-1": "count mean var state",
    "BN-MASK-2": "y",
    "BN-MASK-3": f"y {GRADIENTS} ydot state",
    "BN-MASK-4": GRADIENTS,
    **dict.fromkeys([f"BN-MASK-{n}" for n in range(5, 10)], EVERY),
    "BN-SYNC-1": f"y count mean var state dx {_TANGENTS}",
    **dict.fromkeys(("BN-SYNC-2", "BN-SYNC-3", "BN-SYNC-4", "BN-SYNC-5", "BN-SYNC-8"), EVERY),
    "BN-SYNC-6": "dx",
    "BN-SYNC-7": "dgamma dbeta",
    **dict.fromkeys(("BN-SYNC-9", "BN-SYNC-10", "BN-SYNC-11"), ""),
    **dict.fromkeys(("BN-PREC-1", "BN-PREC-2", "BN-PREC-3", "BN-DET-1", "BN-DET-2", "BN-DET-3"), EVERY),
    **dict.fromkeys([f"BN-STATE-{n}" for n in range(1, 7)], ""),
    **dict.fromkeys([f"BN-ERR-{n}" for n in range(1, 6)], ""),
}


def proving(outputs: str, *clauses: str) -> dict[str, tuple[str, ...]]:
    """Return the same clauses for each of the outputs, words in one text."""
    return dict.fromkeys(outputs.split(), clauses)


#: One table for each part of the specification; what a later one does not say, an earlier one does.
_Table = dict[str, tuple[str, ...]]
_BATCH: _Table = {
    "y": ("BN-NORM-1",),
    "count": ("BN-MOM-1",),
    "mean": ("BN-MOM-2",),
    "var": ("BN-MOM-3",),
    "dx": ("BN-GRAD-1",),
    "dgamma": ("BN-GRAD-2",),
    "dbeta": ("BN-GRAD-3",),
    "ydot": ("BN-GRAD-4",),
    "mean_dot": ("BN-GRAD-4",),
    "var_dot": ("BN-GRAD-4",),
}
_INFERENCE: _Table = proving("y", "BN-INF-1") | proving("dx dgamma dbeta ydot", "BN-INF-3")
_AVERAGING: Mapping[str, tuple[str, ...]] = {
    "exponential": ("BN-RUN-1",),
    "cumulative": ("BN-RUN-5",),
    "pooled": ("BN-RUN-6",),
    "debiased": ("BN-RUN-7",),
}
#: Further clauses that an output proves in groups, under a mask, and over several ranks.
GHOST: _Table = proving(" ".join(_BATCH), "BN-GRP-2") | proving("state", "BN-RUN-8")
MASK: _Table = (
    proving("count mean var state", "BN-MASK-1") | proving("y", "BN-MASK-2") | proving("dx dgamma dbeta", "BN-MASK-4")
)
CHANNEL_MASK: _Table = proving(f"{' '.join(_BATCH)} state", "BN-MASK-8")
SYNC: _Table = (
    proving("y count state ydot mean_dot var_dot", "BN-SYNC-1")
    | proving("mean var", "BN-SYNC-1", "BN-MOM-7")
    | proving("dx", "BN-SYNC-6")
    | proving("dgamma dbeta", "BN-SYNC-7")
)
#: Replacements in the first table: another formula holds.
_RENORM: _Table = {
    "dx": ("BN-GRAD-1", "BN-RENORM-2"),
    "dgamma": ("BN-GRAD-2", "BN-RENORM-2"),
    "ydot": ("BN-GRAD-4", "BN-RENORM-2"),
}
_FORMS: Mapping[str, tuple[str, ...]] = {
    "tensorpack": ("BN-RENORM-5", "BN-RENORM-7"),
    "paper": ("BN-RENORM-6", "BN-RENORM-7"),
}
_BY_RANK: _Table = proving(" ".join(SYNC), "BN-SYNC-8") | {
    "count": ("BN-MOM-1", "BN-SYNC-8"),
    "dgamma": ("BN-GRAD-2", "BN-SYNC-7"),
    "dbeta": ("BN-GRAD-3", "BN-SYNC-7"),
}
#: Clauses that, beside the first one, speak of the value of an output itself: to the bit, or on hard inputs.
_BESIDE: _Table = {
    "y": ("BN-NORM-3", "BN-NORM-5"),
    "count": ("BN-GRP-1",),
    "mean": ("BN-MOM-5", "BN-MOM-6", "BN-MOM-8"),
    "var": ("BN-MOM-5", "BN-MOM-6", "BN-MOM-8"),
    "dx": ("BN-GRAD-5", "BN-GRAD-7", "BN-GRAD-8", "BN-GRAD-9"),
    "dgamma": ("BN-GRAD-5", "BN-GRAD-7"),
    "dbeta": ("BN-GRAD-5", "BN-GRAD-7"),
    **proving(_TANGENTS, "BN-GRAD-5"),
}


def clauses_of(
    case: Case, output: str, given: Mapping[str, tuple[str, ...]], mode: Literal["batch", "inference"]
) -> tuple[str, ...]:
    """Return the clauses that an output proves: the given, else those of its formula and of the case's features."""
    name = output.split(".")[0]
    if name in given:
        return given[name]
    if mode == "inference":
        return _INFERENCE[name]
    config = case.config
    found: _Table = {**_BATCH, "state": _formula_of_state(case, output)}
    if config.renorm is not None:
        form = _FORMS[config.renorm.form]
        found |= _RENORM | {"y": ("BN-RENORM-1", form[0]), "state": form}
    more: list[_Table] = [GHOST if config.virtual_batch_size is not None else {"count": ("BN-GRP-1",)}]
    if any(rank.mask is not None for rank in case.ranks):
        more.append(MASK)
    if case.counts_channels:
        more.append(CHANNEL_MASK)
    if len(case.ranks) > 1 and config.sync_weighting == "count":
        more.append(SYNC)
    elif len(case.ranks) > 1:
        found |= _BY_RANK
    return (*found[name], *(clause for table in more for clause in table.get(name, ())))


def formulas(case: Case, output: str) -> tuple[str, ...]:
    """Return the clauses that define an output's value in a plain batch or in inference, the main one first."""
    name = output.split(".")[0]
    if case.mode == "inference":
        return _INFERENCE.get(name, ("BN-INF-4",))
    if name == "state":
        return _formula_of_state(case, output)
    return (*_BATCH[name], *_BESIDE.get(name, ()))


def _formula_of_state(case: Case, output: str) -> tuple[str, ...]:
    own = _AVERAGING[case.config.averaging]
    return (*own, "BN-RUN-3") if case.config.averaging == "exponential" and output == "state.var" else own


def speaks(clause: str, case: Case | None, output: str) -> bool:
    """Return whether an output of a case can show that a clause is broken."""
    words = SPEAKS[clause].split()
    if output not in words and output.split(".")[0] not in words:
        return False
    renorm = None if case is None else case.config.renorm
    if renorm is not None and clause in ("BN-RENORM-5", "BN-RENORM-6"):
        return clause in _FORMS[renorm.form]
    return True


def output_named(what: str) -> str:
    """Return the output that a text begins with, as "state.mean" in "state.mean with decay 0", or an empty text."""
    word = what.replace(",", " ").split()[0] if what.split() else ""
    if word == "the" and what.split()[1:2] == ["state"]:
        word = "state"
    return word if word.split(".")[0] in OUTPUTS else ""
