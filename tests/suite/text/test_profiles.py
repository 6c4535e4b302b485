"""The profiles that SPEC.md names are those of the suite, and each subject is asked by them."""

import dataclasses
import re

import pytest

from bnspec._clauses import clauses, page, specification
from bnspec_conformance.cases.scope import LAYER, PROFILES, Scope, about

pytestmark = pytest.mark.pages


def test_every_clause_has_profiles_of_the_suite() -> None:
    unknown = {name: set(clause.profiles) - {*PROFILES, LAYER} for name, clause in clauses().items()}
    assert {name: found for name, found in unknown.items() if found} == {}
    assert {profile for clause in clauses().values() for profile in clause.profiles} == {*PROFILES, LAYER}


def test_the_page_lists_the_profiles_as_the_suite_has_them() -> None:
    text = specification().split("## Profiles and levels\n", 1)[1].split("\n## ", 1)[0]
    table = dict(re.findall(r"^\| (\w+) \| (.+) \|$", text.split("| level |")[0], re.M))
    del table["profile"]
    assert table == PROFILES


def test_a_clause_needs_more_than_core_and_no_port_lacks_a_layer() -> None:
    assert about("BN-NORM-1") == about("BN-UPD-1") == ()
    assert about("BN-GRAD-1") == ("grad",)  # from the line of its page
    assert about("BN-GRAD-4") == ("jvp",)  # its own
    assert about("BN-GRAD-6") == ("grad", "cotangents")
    assert "Profile: grad" in page("BN-GRAD")


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "core"])
def test_a_subject_without_a_profile_is_asked_no_clause_that_needs_it(profile: str) -> None:
    lacking = {"statistics": ("cotangents",), "grad": ("cotangents",)}.get(profile, ())
    scope = dataclasses.replace(Scope(), profiles=frozenset(PROFILES) - {profile, *lacking})
    missed = {name for name in clauses() if scope.lacks(name)}
    wanted = {name for name, clause in clauses().items() if {profile, *lacking} & set(clause.profiles)}
    assert missed == wanted != set()
    assert all(f"it has no {profile}" in (scope.lacks(name) or "") for name in missed if profile in about(name)[:1])
