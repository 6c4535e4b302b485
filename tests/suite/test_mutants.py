"""The mutants of the suite: well formed, gone without a trace when they are left, and never killed for nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnspec._clauses import clauses as specification
from bnspec._normalize import inverse_stddev
from bnspec_conformance import mutants
from bnspec_conformance.cli import main
from bnspec_conformance.mutants import ROWS, CannotApply, Mutant, catalogue
from bnspec_conformance.mutants.killing import kill
from bnspec_conformance.mutants.mutant import edit, holders, together, wrap
from bnspec_conformance.mutants.summary import markdown

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"

#: Of clauses whose checks are few and quick.
QUICK = ("broadcast-parameters", "fresh-variance-zero", "counter-wraps")

Core = list[tuple[Any, dict[str, Any]]]


def core() -> Core:
    """Every module and class of bnspec and its backends, with what it holds."""
    holds = holders(inverse_stddev)  # loads what there is to load
    assert holds
    modules = [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] in ("bnspec", "bnspec_backends")]
    classes = [v for m in modules for v in vars(m).values() if isinstance(v, type) and v.__module__ == m.__name__]
    return [(owner, dict(vars(owner))) for owner in (*modules, *classes)]


def changed(before: Core) -> list[str]:
    """What is held now and was not, or the other way round."""
    return [
        f"{owner.__name__}.{name}"
        for owner, held in before
        for name in held.keys() | vars(owner).keys()
        if name not in held or vars(owner).get(name, before) is not held[name]
    ]


# The catalogue ------------------------------------------------------------------------------------------------


def test_every_mutant_is_described_and_names_a_clause() -> None:
    assert len(catalogue()) >= 60
    for name, mutant in catalogue().items():
        assert mutant.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert mutant.clause in specification(), name
        assert mutant.row is None or mutant.row in ROWS, name
        assert re.fullmatch(r"[A-Z][^.]*([.][^. ][^.]*)*[.]", mutant.breaks), f"{name}: {mutant.breaks}"
    said = [mutant.breaks for mutant in catalogue().values()]
    assert sorted(set(said)) == sorted(said)


def test_every_divergence_has_a_mutant() -> None:
    assert list(ROWS) == [f"D{number}" for number in range(1, 29)]
    assert sorted(set(ROWS) - {mutant.row for mutant in catalogue().values()}) == []


def test_no_name_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue.cache_clear()
    monkeypatch.setattr(mutants, "_FAMILIES", (mutants.ghost, mutants.ghost))
    try:
        with pytest.raises(ValueError, match="two mutants are called"):
            catalogue()
    finally:
        catalogue.cache_clear()


@pytest.mark.pages
def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--table"]) == 0
    printed = capsys.readouterr().out
    assert printed == markdown() == PAGE.read_text(encoding="utf-8"), "run bnspec-conformance selftest --table"
    assert all(f"| `{name}` |" in printed for name in catalogue())


# Applying -----------------------------------------------------------------------------------------------------


def test_every_mutant_changes_the_core_and_leaves_it_as_it_was() -> None:
    before = core()
    for mutant in catalogue().values():
        with mutant.apply():
            assert changed(before), f"{mutant.name} changes nothing"
        assert changed(before) == [], mutant.name


def test_an_error_inside_leaves_the_core_as_it_was() -> None:
    before = core()
    with pytest.raises(KeyError), catalogue()["interleaved-groups"].apply():
        raise KeyError
    assert changed(before) == []


def test_a_function_is_replaced_wherever_it_was_imported() -> None:
    places = {(getattr(owner, "__name__", ""), name) for owner, name in holders(inverse_stddev)}
    assert {("bnspec._normalize", "inverse_stddev"), ("bnspec._batch_norm", "inverse_stddev")} <= places


@pytest.mark.parametrize("texts", [("no such text", ""), ("var", "v"), ("Return", "Give")])
def test_an_edit_that_does_not_fit_says_so(texts: tuple[str, str]) -> None:
    with (
        pytest.raises(CannotApply, match=r"inverse_stddev has \d times, not once, the text"),
        edit(inverse_stddev, *texts)(),
    ):
        pass


def test_several_changes_are_one_mutant() -> None:
    seen: list[str] = []

    def also(original: Any, *given: Any) -> Any:
        seen.append("called")
        return original(*given)

    import bnspec._normalize as module

    with together(edit(inverse_stddev, "1.0 /", "2.0 /"), wrap(module.factor, also))():
        import numpy as np

        assert module.inverse_stddev(np.asarray([3.0]), 1.0).tolist() == [1.0]
        module.factor(None, None, np.ones(1))
    assert seen == ["called"]
    assert module.inverse_stddev is inverse_stddev


# Killing ------------------------------------------------------------------------------------------------------


def lame(apply: Any, clause: str = "BN-RUN-2") -> Mutant:
    return Mutant(name="lame", clause=clause, breaks="Breaks nothing.", apply=apply)


SAME = edit(inverse_stddev, "1.0 /", "1.0  /")


@pytest.mark.parametrize(
    ("mutant", "reason"),
    [
        (lame(SAME), "no check of BN-RUN-2 failed"),
        (lame(edit(inverse_stddev, "1.0 /", "no_such_name /"), "BN-NORM-3"), "for no reason of its clause"),
        (lame(edit(inverse_stddev, "nothing of it", "")), "it cannot be applied"),
    ],
)
def test_what_is_not_wrong_about_batch_normalization_survives(mutant: Mutant, reason: str) -> None:
    killing = kill(mutant, 0)
    assert killing.check == ""
    assert reason in killing.reason


def test_a_survivor_is_told_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(mutants, "catalogue", lambda: {"lame": lame(SAME)})
    assert main(["selftest", "--jobs", "1", "--seed", "3", "--json", str(tmp_path / "out.json")]) == 1
    out = capsys.readouterr().out
    assert "lame survived" in out
    assert "SURVIVED seed 3: no check of BN-RUN-2 failed" in out
    assert "1 mutants, seeds 3: 0 killed, 1 SURVIVED. The core itself passed the" in out
    assert json.loads((tmp_path / "out.json").read_text())["mutants"][0]["killed"] is False


def test_a_mutant_that_hangs_is_killed_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hangs = lame(edit(inverse_stddev, "1.0 /", "(__import__('time').sleep(600) or 1.0) /"), "BN-NORM-3")
    monkeypatch.setattr(mutants, "catalogue", lambda: {"lame": hangs})
    asked = ["--jobs", "1", "--seed", "0", "--deadline", "2", "--json", str(tmp_path / "out.json")]
    main(["selftest", *asked])
    assert "1 mutants, seeds 0: all killed." in capsys.readouterr().out
    attempts = json.loads((tmp_path / "out.json").read_text())["mutants"][0]["attempts"]
    assert "did not return within 2 s" in attempts[0]["reason"]


def test_a_core_that_fails_its_own_checks_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with catalogue()["renorm-with-other-averages"].apply():
        assert main(["selftest", "--jobs", "1", "--seed", "0", "--mutant", "reference-with-the-layer-decay"]) == 1
    out = capsys.readouterr().out
    assert "the core itself fails test_renorm::test_averaging" in out
    assert "all killed. The core itself failed 1 of the" in out


def test_quick_mutants_from_the_command_line(tmp_path: Path) -> None:
    asked = [part for name in QUICK for part in ("--mutant", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bnspec_conformance", "selftest", "--jobs", "2", "--json", "out.json", *asked],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 mutants, seeds 0, 1, 2: all killed. The core itself passed the" in done.stdout
    result = json.loads((tmp_path / "out.json").read_text())
    assert sorted(m["name"] for m in result["mutants"]) == sorted(QUICK)
    for mutant in result["mutants"]:
        assert [a["seed"] for a in mutant["attempts"]] == [0, 1, 2]
        assert {a["check"] for a in mutant["attempts"]} != {""}
        assert mutant["killed"]
    assert {r["outcome"] for r in result["core"]} <= {"passed", "not supported", "untested"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mutant", "decay-invertd"], "unknown mutant 'decay-invertd'; expected one of"),
        (["--mutant", "decay-invertd"], "Did you mean decay-inverted"),
        (["--jobs", "0"], "--jobs is 0; expected a number >= 1."),
        (["--clause", "BN-RUM-1"], "no mutant breaks BN-RUM-1; CONTRIBUTING.md says how to add one."),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_the_list_has_every_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalogue())


@pytest.mark.parametrize("wanted", ["BN-RUN-1", "BN-RUN"])
def test_the_mutants_of_a_clause_or_a_family_are_chosen(wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--list", "--clause", wanted]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [m.name for m in catalogue().values() if m.clause == wanted or m.clause.startswith(f"{wanted}-")]
    assert 0 < len(listed) < len(catalogue())
