"""Known failures: what a file of waivers may say, what it covers, when it is stale, and how it is rewritten."""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest

from bnspec_conformance.run.waivers.file import WaiverError, load_waivers, write_changes
from bnspec_conformance.run.waivers.settlement import Waivers
from bnspec_conformance.run.waivers.waiver import Facts, Waiver, dtype_of, facts_of
from bnspec_conformance.trials.record import Record

HERE = Path(__file__).parents[2] / "support" / "subjects"
TODAY = datetime.date(2026, 6, 1)
YESTERDAY = datetime.date(2026, 5, 31)
TORCH = Facts("torch-nn", "cpu", (("torch", "2.13.0+cpu"),))
FLAX = Facts("flax-nnx", "cuda", (("flax", "0.12.8"), ("jax", "0.10.2")))
EXPONENTIAL, ANOTHER = "test_running::test_exponential", "test_running::test_extreme_weights"


def record(outcome: str = "failed", dtype: str | None = "float16", check: str = EXPONENTIAL) -> Record:
    clauses = ("BN-RUN-1", "BN-RUN-3") if check == EXPONENTIAL else ("BN-RUN-1",)
    case = None if dtype is None else f"{dtype}(2,3) axis=1"
    violation = {"clauses": [clauses[0]], "subject": "torch-nn", "problem": "y is off", "case": case}
    booked = {}
    if outcome in ("failed", "waived"):  # the first clause is broken, which leaves the other one untested
        booked = {c: {"outcome": outcome if c == clauses[0] else "untested", "reason": "y is off"} for c in clauses}
    found = violation if outcome == "failed" else None
    return Record(check, clauses, "torch-nn", outcome, 1.0, violation=found, booked=booked)


def nowhere_else(dtypes: Collection[str]) -> None:
    return None


def waivers(*entries: Waiver, update: bool = False) -> Waivers:
    numbered = tuple(dataclasses.replace(e, entry=i, line=10 * i) for i, e in enumerate(entries, 1))
    return Waivers("w.toml", numbered, TODAY, update)


def waiver(**fields: object) -> Waiver:
    target = {} if "check" in fields else {"clause": "BN-RUN-1"}
    return Waiver(**({"entry": 0, "reason": "slow path"} | target | fields))


def test_a_waiver_of_one_clause_does_not_hide_the_failure_of_another() -> None:
    both = dataclasses.replace(record(), booked={})
    known, other = waiver(), waiver(clause="BN-RUN-3", reason="another")
    found = waivers(known).settle(both, TORCH, nowhere_else)
    assert found.outcome == "failed"
    assert [found.booked[c]["outcome"] for c in ("BN-RUN-1", "BN-RUN-3")] == ["waived", "failed"]
    found = waivers(known, other).settle(both, TORCH, nowhere_else)
    assert found.outcome == "waived"
    assert [found.booked[c]["reason"] for c in ("BN-RUN-1", "BN-RUN-3")] == ["slow path", "another"]
    assert found.waiver is not None
    assert len(found.waiver["applied"]) == 2


# The file -------------------------------------------------------------------------------------------------


def test_a_file_may_say_all_of_this(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        """# ours
[[waiver]]
clause = "BN-RUN-1"
when = {subject = "torch-*", dtype = "float16", device = "cpu", version = ">=2.13,<2.14"}
reason = "the kernel accumulates in float16"
link = "https://example.org/7"
expires = 2027-01-01

[[waiver]]
check = "test_running::test_exponential"
reason = "not looked into yet"
"""
    )
    first, second = load_waivers(path)
    assert first == Waiver(
        1,
        "the kernel accumulates in float16",
        clause="BN-RUN-1",
        subject="torch-*",
        dtype="float16",
        device="cpu",
        version=">=2.13,<2.14",
        link="https://example.org/7",
        expires=datetime.date(2027, 1, 1),
        line=2,
    )
    assert (second.check, second.expires, second.where) == (EXPONENTIAL, None, "entry 2 (line 9)")
    (tmp_path / "empty.toml").write_text("# nothing is known to fail\n")
    assert load_waivers(tmp_path / "empty.toml") == ()


GOOD = 'clause = "BN-RUN-1"\nreason = "slow path"\n'


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('clause = "BN-NO-1"\nreason = "x"', "no clause 'BN-NO-1'; `bnspec-conformance list` shows them"),
        ('check = "test_running::test_no"\nreason = "x"', "no check 'test_running::test_no'"),
        ('reason = "x"', "expected a clause or a check, and not both"),
        (f'{GOOD}check = "{EXPONENTIAL}"', "expected a clause or a check, and not both"),
        ('clause = "BN-RUN-1"', "no reason; say why this failure is known"),
        ('clause = "BN-RUN-1"\nreason = " "', "reason is ' '; expected a text"),
        (f"{GOOD}until = 2027-01-01", "unknown key 'until'; expected some of clause, check, when, reason"),
        (f"{GOOD}when = {{framework = 'torch'}}", "unknown condition 'framework'; expected some of subject, dtype"),
        (f'{GOOD}when = "torch"', "when is 'torch'; expected a table"),
        (f'{GOOD}when = {{dtype = "half"}}', "dtype is 'half'; expected one of float16, bfloat16"),
        (f'{GOOD}when = {{version = "about 2"}}', "version is 'about 2'; expected specifiers such as"),
        (f'{GOOD}when = {{version = "torch"}}', "version is 'torch'; expected specifiers such as"),
        (f"{GOOD}when = {{subject = 3}}", "subject is 3; expected a text"),
        (f'{GOOD}expires = "2027-01-01"', "expected a date without quotes, such as 2027-01-01"),
        (f"{GOOD}expires = 2027-01-01T00:00:00", "expected a date without quotes"),
    ],
)
def test_an_entry_that_is_wrong_is_named_by_number_and_line(tmp_path: Path, entry: str, said: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text(f"[[waiver]]\n{GOOD}\n\n[[waiver]]\n{entry}\n")
    with pytest.raises(WaiverError) as caught:
        load_waivers(path)
    assert str(caught.value).startswith(f"{path}, entry 2 (line 6): ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[waiver]\n", "at line 1"),
        ("[waiver]\n" + GOOD, "write [[waiver]], with two brackets"),
        ("[[waivers]]\n" + GOOD, "unknown key 'waivers'; expected only [[waiver]] tables"),
        ('waiver = [{clause = "BN-RUN-1", reason = "x"}]\n', "1 waivers but 0 lines [[waiver]]; write each as a table"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text)
    with pytest.raises(WaiverError) as caught:
        load_waivers(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    with pytest.raises(WaiverError, match="No such file"):
        load_waivers(tmp_path / "no.toml")


# What is covered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "torch", "flax"),
    [
        ({}, True, True),
        ({"subject": "torch-nn"}, True, False),
        ({"subject": "torch"}, False, False),
        ({"subject": "flax-*"}, False, True),
        ({"device": "cuda"}, False, True),
        ({"version": ">=2.13,<2.14"}, True, False),  # 2.13.0+cpu is inside, 0.12.8 is not
        ({"version": "<2"}, False, True),
        ({"version": "jax>=0.10"}, False, True),
        ({"version": "Torch >= 3"}, False, False),
        ({"subject": "flax-*", "device": "cpu"}, False, False),
    ],
)
def test_conditions_say_which_subject_is_meant(conditions: dict[str, str], torch: bool, flax: bool) -> None:
    assert waiver(**conditions).is_about(TORCH) == torch
    assert waiver(**conditions).is_about(FLAX) == flax


@pytest.mark.parametrize(
    ("fields", "covered"),
    [
        ({"clause": "BN-RUN-1"}, True),
        ({"clause": "BN-RUN-3"}, False),  # which the failure leaves untested
        ({"clause": "BN-RUN-2"}, False),
        ({"check": EXPONENTIAL}, True),
        ({"check": ANOTHER}, False),
        ({"dtype": "float16"}, True),
        ({"dtype": "bfloat16"}, False),
        ({"subject": "flax-nnx"}, False),
    ],
)
def test_a_waiver_covers_the_failure_that_it_names(fields: dict[str, str], covered: bool) -> None:
    given = waivers(waiver(**fields))
    settled = given.settle(record(), TORCH, nowhere_else)
    assert settled.outcome == ("waived" if covered else "failed")
    assert (settled.waiver is not None) == covered
    assert settled.violation == record().violation


def test_the_dtype_is_that_of_the_failing_case() -> None:
    assert dtype_of(record(dtype="float16")) == "float16"
    assert dtype_of(record(dtype="bfloat16")) == "bfloat16"
    assert dtype_of(record(dtype=None)) is None
    assert waivers(waiver(dtype="float16")).settle(record(dtype=None), TORCH, nowhere_else).outcome == "failed"


def test_a_waiver_for_one_dtype_does_not_hide_a_failure_in_another() -> None:
    asked: list[list[str]] = []

    def again(dtypes: Collection[str]) -> Record:
        asked.append(sorted(dtypes))
        left = [d for d in ("float16", "bfloat16", "float32") if d not in dtypes]
        return record(dtype=left[0]) if left else record("passed")

    half, other = waiver(dtype="float16"), waiver(dtype="bfloat16")
    settled = waivers(half, other).settle(record(), TORCH, again)
    assert (settled.outcome, asked) == ("failed", [["float16"], ["bfloat16", "float16"]])
    assert dtype_of(settled) == "float32"
    assert settled.seconds == 3.0

    settled = waivers(half, other, waiver(dtype="float32")).settle(record(), TORCH, again)
    assert settled.outcome == "waived"
    assert settled.waiver is not None
    assert [value["entry"] for value in settled.waiver["applied"]] == [1, 2, 3]
    assert dtype_of(settled) == "float16"

    settled = waivers(half).settle(record(), TORCH, lambda dtypes: record("passed"))
    assert settled.outcome == "waived"
    # The same dtype again, from a check that draws outside of the scope: no reason to go on for ever.
    assert waivers(half).settle(record(), TORCH, lambda dtypes: record()).outcome == "failed"


def test_a_waiver_counts_on_its_last_day_and_not_after_it() -> None:
    assert waivers(waiver(expires=TODAY)).settle(record(), TORCH, nowhere_else).outcome == "waived"
    settled = waivers(waiver(expires=YESTERDAY)).settle(record(), TORCH, nowhere_else)
    assert settled.outcome == "failed"
    assert "its waiver, entry 1 (line 10) of w.toml, expired on 2026-05-31: slow path" in settled.reason


# What is stale --------------------------------------------------------------------------------------------


def stale(
    *entries: Waiver, records: list[Record], facts: Facts = TORCH, all_of: tuple[str, ...] = (EXPONENTIAL,)
) -> int:
    found = waivers(*entries).stale(records, [facts], lambda clause: all_of)
    assert all(r.outcome == "stale" and "remove the entry" in r.reason for r in found)
    return len(found)


def test_a_waiver_of_what_passes_is_stale() -> None:
    found = waivers(waiver()).stale([record("passed")], [TORCH], lambda clause: [EXPONENTIAL])
    assert [(r.check, r.clauses, r.outcome) for r in found] == [("w.toml::entry 1", ("BN-RUN-1",), "stale")]
    assert "entry 1 (line 10) of w.toml" in found[0].reason
    assert stale(waiver(check=EXPONENTIAL), records=[record("passed")]) == 1
    assert stale(waiver(expires=YESTERDAY), records=[record("passed")]) == 1
    mixed = [record("passed"), record("not supported", check=ANOTHER)]
    assert stale(waiver(), records=mixed, all_of=(EXPONENTIAL, ANOTHER)) == 1


@pytest.mark.parametrize("outcome", ["failed", "waived", "not supported", "untested"])
def test_a_waiver_of_what_does_not_pass_is_not_stale(outcome: str) -> None:
    assert stale(waiver(), records=[record(outcome)]) == 0
    both = [record("passed"), record(outcome, check=ANOTHER)]
    needed = outcome in ("failed", "waived")
    assert stale(waiver(), records=both, all_of=(EXPONENTIAL, ANOTHER)) == int(not needed)


def test_what_was_not_looked_at_is_not_judged() -> None:
    passed = [record("passed")]
    assert stale(waiver(), records=passed, all_of=(EXPONENTIAL, ANOTHER)) == 0  # one of two checks ran
    assert stale(waiver(subject="flax-nnx"), records=passed) == 0
    assert stale(waiver(version=">=3"), records=passed) == 0
    assert stale(waiver(), records=passed, facts=FLAX) == 0  # it has no record
    assert stale(waiver(check=ANOTHER), records=passed) == 0


# Rewriting ------------------------------------------------------------------------------------------------


def test_an_update_adds_renews_and_removes_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    kept = """# by hand
[[waiver]]  # the old kernel
clause = "BN-RUN-1"
when = { subject = "torch-nn" }  # only there
reason = "slow path"
expires = 2030-01-01
"""
    gone = f'\n[[waiver]]\ncheck = "{ANOTHER}"\nwhen = {{subject = "torch-nn"}}\nreason = "mended"\n'
    late = '\n[[waiver]]\nclause = "BN-RUN-9"\nreason = "see the thread"\nlink = "https://example.org"\n'
    late += "expires = 2026-01-01\n"
    elsewhere = '\n[[waiver]]\nclause = "BN-RUN-1"\nwhen = {subject = "flax-nnx"}\nreason = "other subject"\n'
    path.write_text(kept + gone + late + elsewhere)
    given = Waivers(str(path), load_waivers(path), TODAY, update=True)
    empty = dataclasses.replace(record(check="test_running::test_count_zero"), clauses=("BN-RUN-9",))
    new = dataclasses.replace(record(check="test_running::test_pooled"), clauses=("BN-RUN-6",))
    failing = [given.settle(r, TORCH, nowhere_else) for r in (record(), empty, new)]
    records = [*failing, record("passed", check=ANOTHER)]
    assert {r.outcome for r in failing} == {"waived"}
    checks = {"BN-RUN-1": [EXPONENTIAL], "BN-RUN-9": [empty.check]}
    changes = given.changes(records, given.stale(records, [TORCH], lambda clause: checks[clause]))
    assert write_changes(path, changes, TODAY) == f"{path}: 1 added, 1 renewed, 1 removed"

    assert path.read_text().startswith(kept)
    one, two, three, four = load_waivers(path)
    assert (one.clause, one.expires) == ("BN-RUN-1", datetime.date(2030, 1, 1))
    assert (two.reason, two.link, two.expires) == ("see the thread", "https://example.org", datetime.date(2026, 8, 30))
    assert three.reason == "other subject"
    assert (four.check, four.subject, four.reason) == (new.check, "torch-nn", "not looked into yet: y is off")
    assert four.expires == datetime.date(2026, 8, 30)  # 90 days
    # With the new file, the same run has nothing left to say.
    after = Waivers(str(path), load_waivers(path), TODAY)
    again = [after.settle(r, TORCH, nowhere_else) for r in (record(), empty, new)]
    assert {r.outcome for r in again} == {"waived"}
    passed = [*again, record("passed", check=ANOTHER)]
    assert after.stale(passed, [TORCH], lambda clause: checks[clause]) == []
    assert write_changes(path, after.changes(again, []), TODAY) == f"{path} fits: nothing to add, renew or remove"


def test_an_update_splits_a_pattern_that_is_stale_for_one_of_its_subjects(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text('[[waiver]]\nclause = "BN-RUN-1"\nwhen = {subject = "torch-*"}\nreason = "slow path"\n')
    given = Waivers(str(path), load_waivers(path), TODAY, update=True)
    other = dataclasses.replace(TORCH, subject="torch-functional")
    records = [
        given.settle(record(), TORCH, nowhere_else),
        dataclasses.replace(record("passed"), subject=other.subject),
    ]
    found = given.stale(records, [TORCH, other], lambda clause: [EXPONENTIAL])
    assert [r.subject for r in found] == ["torch-functional"]
    write_changes(path, given.changes(records, found), TODAY)
    (entry,) = load_waivers(path)
    assert (entry.clause, entry.subject, entry.reason) == ("BN-RUN-1", "torch-nn", "slow path")


def test_an_update_writes_a_file_that_is_not_there_and_empties_one_that_is(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    given = Waivers(str(path), (), TODAY, update=True)
    odd = record()
    odd.violation = {"problem": 'raised "ValueError": \\ \x01\nsecond line', "case": None}
    write_changes(path, given.changes([given.settle(odd, TORCH, nowhere_else)], []), TODAY)
    (entry,) = load_waivers(path)
    assert entry.reason == 'not looked into yet: raised "ValueError": \\ \\x01'
    assert "# BN-RUN-1, BN-RUN-3" in path.read_text()
    given = Waivers(str(path), load_waivers(path), TODAY, update=True)
    passed = [record("passed")]
    write_changes(path, given.changes(passed, given.stale(passed, [TORCH], lambda clause: [])), TODAY)
    assert load_waivers(path) == ()
    assert path.read_text().startswith("# Known failures")


# The command ----------------------------------------------------------------------------------------------


def test_a_run_with_waivers(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        words = [
            "run",
            *arguments,
            "--clause",
            "BN-RUN-1",
            "--max-examples",
            "3",
            "--sizes",
            "none",
            "--json",
            "out.json",
        ]
        return subprocess.run(
            [sys.executable, "-m", "bnspec_conformance", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )

    def verdicts() -> dict[str, str]:
        entry = json.loads((tmp_path / "out.json").read_text())["clauses"]["BN-RUN-1"]
        return {name: found["verdict"] for name, found in entry["subjects"].items()}

    first = run("wrong_subjects:forgetful", "--waivers", "w.toml", "--update-waivers")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "w.toml: 2 added" in first.stdout  # the clause has two checks that it breaks
    assert verdicts() == {"wrong_subjects:forgetful": "waived"}
    for entry in tomllib.loads((tmp_path / "w.toml").read_text())["waiver"]:
        assert entry["when"] == {"subject": "wrong_subjects:forgetful"}
        assert entry["expires"] == datetime.date.today() + datetime.timedelta(days=90)

    (tmp_path / "w.toml").write_text(
        (tmp_path / "w.toml").read_text()
        + f'\n[[waiver]]\nclause = "BN-RUN-1"\nwhen = {{subject = "wrong_subjects:right"}}\n{_REASON}'
    )
    second = run("wrong_subjects:forgetful", "wrong_subjects:right", "--waivers", "w.toml")
    assert second.returncode == 1, second.stdout + second.stderr
    assert verdicts() == {"wrong_subjects:forgetful": "waived", "wrong_subjects:right": "failed"}
    assert "stale: wrong_subjects:right: waived by entry 3" in second.stdout
    assert any("waived by entry 3" in note for note in json.loads((tmp_path / "out.json").read_text())["notes"])

    expired = f'[[waiver]]\nclause = "BN-RUN-1"\n{_REASON}expires = 2020-01-01\n'
    (tmp_path / "w.toml").write_text(expired)
    third = run("wrong_subjects:forgetful", "--waivers", "w.toml")
    assert third.returncode == 1
    assert "its waiver, entry 1 (line 1) of w.toml, expired on 2020-01-01: slow path" in third.stdout
    assert verdicts() == {"wrong_subjects:forgetful": "failed"}


_REASON = 'reason = "slow path"\n'


def test_facts_are_the_subjects_own() -> None:
    from bnspec_conformance import find_subject

    facts = facts_of(find_subject("numpy"))
    assert (facts.subject, facts.device) == ("numpy", "cpu")
    assert [name for name, _ in facts.libraries] == ["numpy", "bnspec"]


def test_the_example_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (HERE.parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    (tmp_path / "w.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    torch, port = load_waivers(tmp_path / "w.toml")
    assert torch.is_about(TORCH)
    assert not torch.is_about(FLAX)
    assert (port.subject, port.dtype, port.expires) == ("my-port", "float16", None)
