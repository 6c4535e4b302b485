"""The tables of the page Options: fields, their values and defaults, and what is refused together."""

import dataclasses
import itertools
import re
from typing import Any, get_args

import numpy as np
import pytest
from spec_tables import rows

import bnspec
from bnspec._clauses import clauses
from bnspec._config import Averaging, GhostSource, NonFinite, SingleValue
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.cases.scope import PROFILES, Scope

pytestmark = pytest.mark.pages

PLAIN: dict[str, Any] = {"axis": 1, "epsilon": 0.25, "decay": 0.75, "correction": 0}
RENORM = {"rmax": 2.0, "dmax": 1.0}


FIELDS = {cells[0]: cells[1:] for cells in rows("Options", "| field | values |")}


def build(field: str, value: Any) -> bnspec.BatchNormConfig:
    """Make a configuration with one field as given."""
    if field.startswith("renorm."):
        return bnspec.BatchNormConfig(**PLAIN, renorm=bnspec.Renorm(**(RENORM | {field[7:]: value})))
    return bnspec.BatchNormConfig(**(PLAIN | {field: value}))


# Fields ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_field_with_its_default() -> None:
    found = {}
    for prefix, kind in (("", bnspec.BatchNormConfig), ("renorm.", bnspec.Renorm)):
        for field in dataclasses.fields(kind):
            default = field.default
            words = {True: "true", False: "false", None: "none", dataclasses.MISSING: "required"}
            shown = f'"{default}"' if isinstance(default, str) else words.get(default, str(default))
            found[prefix + field.name] = shown
    assert {field: cells[1] for field, cells in FIELDS.items()} == found


def values_of(text: str) -> tuple[list[Any], list[Any]]:
    """Values that the cell allows, and values that it does not."""
    allowed: list[Any] = []
    never: list[Any] = ["nothing of the kind", [1], complex(1)]
    numbers = {"> 0": (1e-300, 0.0), ">= 1": (1, 0.5), ">= 0": (0, -1e-9), "in [0, 1]": (1.0, 1.5)}
    if '"' in text:
        return re.findall(r'"(\w+)"', text), [*never, "Exponential", 1]
    if text == "true or false":
        return [True, False], [*never, 1, None]
    if text == "0 or 1":
        return [0, 1], [*never, 2, True, 0.5]
    if "none" in text:
        allowed.append(None)
    if text.startswith("integer"):
        allowed.append(3)
        return ([*allowed, 1], [*never, True, 1.5, 0]) if ">= 1" in text else ([*allowed, -2], [*never, True, 1.5])
    if text.startswith("a record"):
        return [None, bnspec.Renorm(rmax=1, dmax=0)], [*never, True, {"rmax": 1}]
    inside, outside = numbers[text.removeprefix("number ")]
    return [inside, 1.0], [*never, outside, True, None, float("nan"), float("inf")]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_takes_the_values_of_the_page_and_refuses_others_with_its_clause(field: str) -> None:
    text, _, named, _ = FIELDS[field]
    ids = named.split(", ")
    assert all(clause in clauses() for clause in ids)
    allowed, never = values_of(text)
    assert len(allowed) > 1
    for value in allowed:
        build(field, value)
    for value in never:
        with pytest.raises((TypeError, ValueError)) as caught:
            build(field, value)
        assert f"[{ids[0]}]" in str(caught.value), (field, value, str(caught.value))


def test_the_words_of_a_field_are_all_its_words() -> None:
    for field, words in (("averaging", Averaging), ("ghost_source", GhostSource), ("single_value", SingleValue)):
        assert tuple(re.findall(r'"(\w+)"', FIELDS[field][0])) == get_args(words)
    assert tuple(re.findall(r'"(\w+)"', FIELDS["nonfinite"][0])) == get_args(NonFinite)


@pytest.mark.parametrize("field", [name for name in FIELDS if "." not in name and name not in ("center", "scale")])
def test_a_field_matters_only_to_ports_with_its_profiles(field: str) -> None:
    profiles = FIELDS[field][3].split(", ")
    assert set(profiles) <= set(PROFILES)
    x = np.zeros((2, 3), np.float32)
    plain = Case(config=bnspec.BatchNormConfig(**PLAIN), ranks=(RankInputs(x),))
    scope = dataclasses.replace(Scope(), options={field: ("nothing",)})  # any value that matters is refused
    matters = scope.without_option(plain) is not None
    if field == "renorm":  # its form is what a scope names
        matters = dataclasses.replace(Scope(), options={"renorm.form": ("nothing",)}).without_option(plain) is not None
    assert matters == (profiles == ["core"])


# Refused together -----------------------------------------------------------------------------------------------

TOGETHER = rows("Options", "| options | clause |")


def holds(condition: str, values: dict[str, Any]) -> bool:
    """Whether values fulfil a condition such as 'averaging is "pooled" or "debiased"'."""
    field, _, said = condition.partition(" is ")
    if said == "given":
        return values[field] is not None
    words = re.findall(r'"(\w+)"', said)
    return values[field] in words if words else values[field] == float(said)


def test_what_is_refused_together_is_what_the_page_says() -> None:
    count = 0
    renorm = (None, bnspec.Renorm(rmax=2.0, dmax=1.0), bnspec.Renorm(form="paper", rmax=2.0, dmax=1.0))
    words = map(get_args, (Averaging, GhostSource, SingleValue, NonFinite))
    names = (
        "averaging",
        "ghost_source",
        "single_value",
        "nonfinite",
        "renorm",
        "correction",
        "virtual_batch_size",
        "decay",
    )
    for chosen in itertools.product(*words, renorm, (0, 1), (None, 2), (0.0, 0.5, 1.0)):
        values = dict(zip(names, chosen, strict=True))
        due = [clause for text, clause in TOGETHER if all(holds(c, values) for c in text.split("; "))]
        try:
            bnspec.BatchNormConfig(**(PLAIN | values))
            assert due == []
        except ValueError as error:
            assert re.findall(r"\[(BN-.*)\]", str(error))[0] in due, (values, due)  # noqa: PT017 - none is as good
        count += bool(due)
    assert count > 0
    assert len(TOGETHER) == 4
