"""Reading clauses out of Markdown, and what must hold of the shipped SPEC.md."""

from itertools import groupby
from pathlib import Path

import pytest

from bnspec._clauses import LEVELS, _parse, clauses, page, specification, specification_version
from bnspec._cli import main

TEXT = """\
# A specification

Words about it. **BN-MOM-9** in running text is no clause.

## Moments

Profile: core

Let x be the input.

- **BN-MOM-1** (A; statistics) The count is
  an integer.

  A second paragraph.
- **BN-MOM-2** (AAA) The mean.
- A remark that is no clause.
- **BN-MOM-3** (A) The variance,

after which a paragraph of the page follows.

```
## not a page
- **BN-NOT-A-1** not a clause
```

### Cases

- **BN-NORM-1** (AA) The output.

## Running state

Profile: running, ghost

- **BN-RUN-1** (A) The update.

# Part II

Words about it.

## Names

- **BN-STATE-1** (A; layer) (Or so.)
"""


def test_a_clause_ends_at_the_next_item_heading_or_paragraph() -> None:
    found = _parse(TEXT)
    assert {name: clause.text for name, clause in found.items()} == {
        "BN-MOM-1": "The count is\nan integer.\n\nA second paragraph.",
        "BN-MOM-2": "The mean.",
        "BN-MOM-3": "The variance,",
        "BN-NORM-1": "The output.",
        "BN-RUN-1": "The update.",
        "BN-STATE-1": "(Or so.)",
    }


def test_a_clause_knows_its_family_and_page() -> None:
    found = _parse(TEXT)
    assert (found["BN-NORM-1"].family, found["BN-NORM-1"].title_of_page) == ("BN-NORM", "Moments")
    assert (found["BN-RUN-1"].family, found["BN-RUN-1"].title_of_page) == ("BN-RUN", "Running state")


def test_a_clause_has_its_level_and_its_own_profiles_or_those_of_the_page() -> None:
    found = {name: (clause.level, clause.profiles) for name, clause in _parse(TEXT).items()}
    assert found == {
        "BN-MOM-1": ("A", ("statistics",)),
        "BN-MOM-2": ("AAA", ("core",)),
        "BN-MOM-3": ("A", ("core",)),
        "BN-NORM-1": ("AA", ("core",)),
        "BN-RUN-1": ("A", ("running", "ghost")),
        "BN-STATE-1": ("A", ("layer",)),
    }


LEVEL = "clause BN-A-1 has no level; expected one of (A), (AA), (AAA) after its id"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "## Page\n- **BN-A-1** (A; core) x\n- **BN-A-1** (A; core) y\n",
            "clause BN-A-1 occurs twice, under 'Page' and 'Page'",
        ),
        ("- **BN-A-1** (A; core) x\n\n## Page\n", "clause BN-A-1 stands on no page"),
        ("## Page\n# Part II\n- **BN-A-1** (A; core) x\n", "clause BN-A-1 stands on no page"),
        ("## Page\nProfile: core\n- **BN-A-1** x\n", LEVEL),
        ("## Page\nProfile: core\n- **BN-A-1** (AAAA) x\n", LEVEL),
        ("## Page\nProfile: core\n- **BN-A-1** (B) x\n", LEVEL),
        (
            "## Other\nProfile: core\n## Page\n- **BN-A-1** (A) x\n",
            "clause BN-A-1 has no profile, and its page 'Page' no line 'Profile: ...'",
        ),
    ],
)
def test_a_broken_text_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        _parse(text)
    assert str(caught.value) == problem


def test_every_shipped_clause_has_a_text() -> None:
    assert clauses()
    assert [clause.id for clause in clauses().values() if len(clause.text.split()) < 3] == []


def test_shipped_clauses_are_numbered_from_one_without_gaps_and_in_order() -> None:
    by_family = sorted(clauses().values(), key=lambda clause: clause.family)  # a family may stand on two pages
    for family, members in groupby(by_family, key=lambda clause: clause.family):
        ids = [clause.id for clause in members]
        assert ids == [f"{family}-{number}" for number in range(1, len(ids) + 1)]


def test_every_bold_id_that_starts_a_line_of_the_shipped_text_was_read() -> None:
    written = [line.split("**")[1] for line in specification().splitlines() if line.lstrip(" -*").startswith("BN-")]
    assert [name for name in written if name not in clauses()] == []


def test_the_page_of_a_clause_is_the_page_of_its_family() -> None:
    text = page("BN-MOM-1")
    assert text.startswith("## ")
    assert page("bn-mom") == text
    assert "**BN-MOM-1**" in text
    assert "**BN-RUN-1**" not in text


def test_the_text_has_a_version_and_every_level() -> None:
    assert specification().split("\n## ")[0].count(f"\nVersion: {specification_version()}\n") == 1
    assert {clause.level for clause in clauses().values()} == set(LEVELS)


def test_clauses_returns_a_dictionary_of_ones_own() -> None:
    clauses().clear()
    assert clauses()


@pytest.mark.parametrize(
    ("name", "near"),
    [("BN-MOM-99", "BN-MOM-1, BN-MOM-2"), ("MOM-3", "BN-MOM-3"), ("BN-MOMENTS", "BN-MOM"), ("?", "BN-RUN")],
)
def test_an_unknown_clause_is_refused_with_the_near_names(name: str, near: str) -> None:
    with pytest.raises(LookupError) as caught:
        page(name)
    text = str(caught.value)
    assert text.startswith(f"{name!r} names no clause of SPEC.md; expected ")
    assert near in text
    assert "[BN-ERR-5]" in text


def test_the_command_prints_a_clause_a_page_or_everything(capsys: pytest.CaptureFixture[str]) -> None:
    clause = clauses()["BN-MOM-1"]
    assert main(["spec", "bn-mom-1"]) == 0
    assert capsys.readouterr().out == f"BN-MOM-1 (Moments; level A; profile statistics)\n\n{clause.text}\n"
    assert main(["spec", "BN-MOM"]) == 0
    assert capsys.readouterr().out == page("BN-MOM") + "\n"
    assert main(["spec"]) == 0
    assert capsys.readouterr().out.strip() == specification().strip()


def test_the_command_reports_an_unknown_clause_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec", "BN-MOM-99"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("bnspec: 'BN-MOM-99' names no clause of SPEC.md; expected ")


@pytest.mark.pages
def test_the_changelog_names_the_version_of_the_text() -> None:
    changelog = Path(__file__).parents[2].joinpath("CHANGELOG.md")
    assert f"`SPEC.md` {specification_version()}" in changelog.read_text(encoding="utf-8")
