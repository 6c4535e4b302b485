"""The mutants of the suite: well formed, gone without a trace when they are left, and never killed for nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec import _discovery
from bnspec._clauses import clauses as specification
from bnspec._normalize import inverse_stddev
from bnspec._running import used_statistics
from bnspec_backends import cpu
from bnspec_conformance import mutants
from bnspec_conformance.cli import main
from bnspec_conformance.mutants import ROWS, CannotApply, Mutant, catalogue
from bnspec_conformance.mutants.declining import DECLINERS, SHRUNK
from bnspec_conformance.mutants.edited import EDITED
from bnspec_conformance.mutants.editing import Edit, edit
from bnspec_conformance.mutants.killing import Way, kernels_of, kill
from bnspec_conformance.mutants.mutant import parts, together
from bnspec_conformance.mutants.overriding import Override, inside, override
from bnspec_conformance.mutants.replacing import holders, wrap
from bnspec_conformance.mutants.summary import markdown

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"

#: Of clauses whose checks are few and quick.
QUICK = ("broadcast-parameters", "fresh-variance-zero", "counter-wraps")

Core = list[tuple[Any, dict[str, Any]]]


def core() -> Core:
    """Every module and class of bnspec and its backends, with what it holds; and the kernels in use."""
    holds = holders(inverse_stddev)  # loads what there is to load
    assert holds
    modules = [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] in ("bnspec", "bnspec_backends")]
    classes = [v for m in modules for v in vars(m).values() if isinstance(v, type) and v.__module__ == m.__name__]
    _discovery.kernels_for(np.empty(0))
    return [(Kernels, dict(_discovery._kernels)), *((owner, dict(vars(owner))) for owner in (*modules, *classes))]


class Kernels:
    """Stand-in for the owner of the kernels in use."""


def changed(before: Core) -> list[str]:
    """What is held now and was not, or the other way round."""
    now = [_discovery._kernels if owner is Kernels else vars(owner) for owner, _ in before]
    return [
        f"{owner.__name__}.{name}"
        for (owner, held), holds in zip(before, now, strict=True)
        for name in held.keys() | holds.keys()
        if name not in held or holds.get(name, before) is not held[name]
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


def test_the_table_names_every_function_that_is_edited() -> None:
    edited: dict[str, set[str]] = {}
    for mutant in catalogue().values():
        for part in parts(mutant.apply):
            if isinstance(part, Edit):
                edited.setdefault(part.edited, set()).add(mutant.name)
    assert {name: tuple(sorted(by)) for name, by in sorted(edited.items())} == EDITED
    assert list(EDITED) == sorted(EDITED)


@pytest.mark.parametrize("name", sorted({name for by in EDITED.values() for name in by}))
def test_every_text_that_is_edited_stands_once_in_the_source(name: str) -> None:
    for part in parts(catalogue()[name].apply):
        if isinstance(part, Edit):
            compile(part.source(), part.edited, "exec")  # names the function, and the text that is not there


def test_most_mutants_name_no_text_of_the_core() -> None:
    assert len({name for by in EDITED.values() for name in by}) < len(catalogue()) / 4
    through_the_seam = [m for m in catalogue().values() if all(isinstance(p, Override) for p in parts(m.apply))]
    assert len(through_the_seam) > len(catalogue()) / 2


@pytest.mark.skipif(bool(cpu.not_compiled()), reason="there are no compiled kernels without numba")
def test_mutants_that_override_are_made_from_the_compiled_kernels_too() -> None:
    assert kernels_of(catalogue()["epsilon-twice"]) == ("specification", "compiled")
    assert kernels_of(catalogue()["one-value-refused"]) == ("specification",)


def test_searches_with_shrinking_have_every_word() -> None:
    assert set(SHRUNK) <= set(catalogue())
    assert set(SHRUNK.values()) == {"", *DECLINERS}


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
    places = {(getattr(owner, "__name__", ""), name) for owner, name in holders(used_statistics)}
    assert {("bnspec._running", "used_statistics"), ("bnspec._batch_norm", "used_statistics")} <= places


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
        assert module.inverse_stddev(np.asarray([3.0]), 1.0).tolist() == [1.0]
        module.factor(None, None, np.ones(1))
    assert seen == ["called"]
    assert module.inverse_stddev is inverse_stddev


# Overriding ---------------------------------------------------------------------------------------------------

KERNELS = [name for name in cpu.KERNELS if name != "compiled" or not cpu.not_compiled()]
CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0, center=False, scale=False)
X = np.asarray([[1.0], [3.0]])


def pulled_back() -> Any:
    y, _, saved = bnspec.batch_norm(X, bnspec.Params(None, None), CONFIG)
    return y.tolist(), bnspec.batch_norm_vjp(np.asarray([[0.0], [4.0]]), saved).x.tolist()


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_overridden_primitive_takes_effect_in_what_is_composed_of_it(kernels: str) -> None:
    def shifted(original: Any, x: Any, groups: Any, mask: Any) -> Any:
        return original(x + 1.0, groups, mask)

    with cpu.using(kernels):
        right = pulled_back()
        assert right == ([[-0.5], [0.5]], [[-0.75], [0.75]])
        with override(moments=shifted)():
            assert isinstance(_discovery.kernels_for(X), type(cpu.make(kernels)))
            assert pulled_back()[0] == [[-1.0], [0.0]]
        assert pulled_back() == right


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_overridden_operation_leaves_the_others_as_they_were(kernels: str) -> None:
    def detached(original: Any, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, *rest: Any) -> Any:
        return original(dy, x, centre, a, 0.0 * b, 0.0 * c, *rest)

    with cpu.using(kernels), override(pull_back=inside(grad_input=detached))():
        assert pulled_back() == ([[-0.5], [0.5]], [[0.0], [2.0]])
        made = type(_discovery.kernels_for(X))
        assert made.forward is type(cpu.make(kernels)).forward
        assert made.grad_input is type(cpu.make(kernels)).grad_input


def test_a_method_that_kernels_do_not_have_is_refused() -> None:
    with pytest.raises((TypeError, AttributeError), match="normalise"), override(normalise=lambda *given: None)():
        pass


@pytest.mark.parametrize("kernels", [name for name in KERNELS if name != "blocked"])
def test_a_mutant_is_killed_on_the_kernels_that_it_is_made_from(kernels: str) -> None:
    assert kill(catalogue()["epsilon-twice"], Way(0, kernels=kernels)).check == "test_normalize::test_formula"


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
    killing = kill(mutant, Way(0))
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
