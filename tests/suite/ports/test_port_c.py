"""The port in C: it compiles without a warning, conforms by the strict bound, and survives what is no request."""

import json
import os
import re
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from damaged_requests import damaged_requests

from bnspec import BatchNormConfig
from bnspec_conformance import Case, RankInputs, find_subject
from bnspec_conformance.cases.codecs.codec import case_from_json, case_to_json, outcome_from_json, outcome_to_json
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import NotSupported, Refused, Subject
from bnspec_conformance.subjects.pipe.conversation import cases, main
from bnspec_conformance.trials.budget import Budget

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "examples" / "port-c" / "port.c"
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-ffp-contract=off"]

COMPILER = shlex.split(os.environ.get("CC", "cc"))
needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER[0]) is None, reason=f"no C compiler: {COMPILER[0]} is not there"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("port-c")
    subprocess.run([*COMPILER, *FLAGS, "-O2", str(SOURCE), "-o", str(made / "port"), "-lm"], check=True)
    return made


@pytest.fixture(scope="module")
def port(folder: Path) -> Subject:
    return find_subject(f"exec:{folder / 'port'}")


@needs_compiler
def test_every_profile_that_the_file_names_is_declared(port: Subject) -> None:
    assert port.scope.profiles == {"core", "statistics", "running", "inference", "grad"}
    assert port.bound == "strict"
    assert port.arithmetic == "float64"
    assert not port.scope.options


#: Checks of the port's profiles; the other ones are not supported.
CHECKS = [
    "test_counts::test_counter_saturates",
    "test_counts::test_counters_of_channels",
    "test_counts::test_pooled_after_one",
    "test_gradients::test_central_differences",
    "test_gradients::test_hard_families",
    "test_gradients::test_vjp",
    "test_groups::test_plain_is_one_group",
    "test_inference::test_derivatives",
    "test_inference::test_elements_alone",
    "test_inference::test_far_mean",
    "test_inference::test_formula",
    "test_inference::test_kinds",
    "test_inference::test_state_stays",
    "test_moments::test_channel_isolation",
    "test_moments::test_definitions",
    "test_moments::test_exact_statistics",
    "test_normalize::test_absent_parameters",
    "test_normalize::test_constant_channel",
    "test_normalize::test_formula",
    "test_normalize::test_hard_families",
    "test_normalize::test_laws",
    "test_not_finite::test_first_of_a_cumulative_average",
    "test_not_finite::test_old_state_is_not_looked_at",
    "test_one_value::test_one_value_pooled",
    "test_precision::test_arithmetic",
    "test_refusals::test_axes",
    "test_refusals::test_ranks",
    "test_refusals::test_vectors",
    "test_running::test_count_zero",
    "test_running::test_cumulative",
    "test_running::test_debiased_update",
    "test_running::test_debiased_use",
    "test_running::test_exponential",
    "test_running::test_extreme_weights",
    "test_running::test_nonfinite",
    "test_running::test_pooled",
    "test_running::test_pooled_over_steps_is_the_population",
    "test_running::test_single_value",
    "test_shapes::test_empty",
    "test_shapes::test_every_axis",
]


@needs_compiler
@pytest.mark.parametrize("name", CHECKS)
def test_it_conforms(port: Subject, name: str) -> None:
    record = attempt(all_checks()[name], port, Budget(6, 0))
    assert record.outcome == "passed", record.reason
    assert record.examples > 0


@needs_compiler
def test_a_one_pass_variance_would_be_found(folder: Path) -> None:
    text = SOURCE.read_text()
    squares = "for (sum = 0.0, e = 0; e < call->count; e++) sum += pow(*at(&call->x, call, c, e), 2.0);"
    wrong = text.replace("s.var = sum / n;", squares + " s.var = sum / n - s.hi * s.hi;")
    assert wrong != text
    (folder / "wrong.c").write_text(wrong)
    subprocess.run(
        [*COMPILER, "-std=c99", "-O1", str(folder / "wrong.c"), "-o", str(folder / "wrong"), "-lm"], check=True
    )
    record = attempt(
        all_checks()["test_normalize::test_hard_families"], find_subject(f"exec:{folder / 'wrong'}"), Budget(20, 0)
    )
    assert record.outcome == "failed"


@needs_compiler
def test_a_counter_that_wraps_would_be_found(folder: Path) -> None:
    text = SOURCE.read_text()
    right = "old > INT64_MAX - step ? INT64_MAX : old + step"
    assert text.count(right) == 1
    (folder / "wraps.c").write_text(text.replace(right, "(int64_t)((uint64_t)old + (uint64_t)step)"))
    subprocess.run(
        [*COMPILER, "-std=c99", "-O1", str(folder / "wraps.c"), "-o", str(folder / "wraps"), "-lm"], check=True
    )
    record = attempt(
        all_checks()["test_counts::test_counter_saturates"], find_subject(f"exec:{folder / 'wraps'}"), Budget(20, 0)
    )
    assert (record.outcome, record.broken) == ("failed", ("BN-RUN-13",))


# What is said -----------------------------------------------------------------------------------------------


@pytest.mark.pages
@needs_compiler
def test_the_page_of_the_protocol_shows_this_conversation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"exec:{folder / 'port'}"]) == 0
    page = (ROOT / "docs" / "protocol.md").read_text()
    shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert shown == [capsys.readouterr().out]


def test_the_examples_on_the_page_of_the_protocol_are_what_they_say() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    (block,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    lines = [line for line in block.splitlines() if line[:2] in ("> ", "< ")]
    assert [line[0] for line in lines] == [">", "<"] * 4
    requests, answers = ([json.loads(line[2:]) for line in lines[i::2]] for i in (0, 1))
    for request, case in zip(requests[1:], cases().values(), strict=True):
        assert case_to_json(case_from_json(request["case"])) == request["case"] == case_to_json(case)
    for answer in (answers[1], answers[3]):
        again = outcome_to_json(outcome_from_json(answer["outcome"]))["ranks"][0]
        assert {k: v for k, v in again.items() if v is not None} == answer["outcome"]["ranks"][0]
    first = outcome_from_json(answers[1]["outcome"]).ranks[0]
    assert first.y is not None
    assert first.dx is not None
    assert first.state is not None
    assert (first.y.ravel().tolist(), first.dx.ravel().tolist()) == ([0, 0, 0, 4], [1.375, -0.625, -0.625, -0.125])
    assert {k: v.tolist() for k, v in first.state.items()} == {"mean": [0.125], "var": [0.9375]}


@pytest.mark.pages
def test_the_page_of_the_protocol_names_every_key() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    case = Case(
        config=BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0),
        ranks=(RankInputs(np.ones((2, 2), "float32")),),
        state={k: np.ones(2, "float32") for k in ("mean", "var", "count", "stddev", "renorm_mean", "renorm_stddev")},
    )
    value = case_to_json(case)
    keys = {*value, *value["config"], *value["ranks"][0], *value["state"], *value["ranks"][0]["x"]}
    (rank,) = outcome_to_json(outcome_from_json({"ranks": [{}]}))["ranks"]
    assert sorted(key for key in {*keys, *rank} if f"`{key}`" not in page) == []


# What is no request -----------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "expected a value, not the end of the line"),
        ("{", "expected a key and a colon"),
        ('{"op": "hello"', "expected a comma or }"),
        ('{"op": "hello"} x', "expected one value on the line, and then its end"),
        ('{"op": "hello', "the request ends within a string"),
        ("[" * 100, "the request has more than 32 levels"),
        ("[1, 2]", "expected an object with the key op"),
        ('{"op": 3}', "this port does not know the op in 3"),
        ('{"op": "run"}', "the key case is missing"),
        ('{"op": "run", "case": {"config": {"axis": "1"}}}', "the key state is missing"),
    ],
)
def test_what_is_no_request_is_an_error_and_the_next_one_is_answered(folder: Path, line: str, said: str) -> None:
    done = subprocess.run(
        [folder / "port"], input=line + '\n{"op": "hello"}\n', capture_output=True, text=True, check=True, timeout=10
    )
    error, hello = map(json.loads, done.stdout.splitlines())
    assert said in error["error"]
    assert hello["name"] == "port-c"


@needs_compiler
@pytest.mark.parametrize(
    ("change", "raised", "said"),
    [
        ({"ranks": (RankInputs(np.ones((2, 3), "float16")),)}, NotSupported, "float16"),
        ({"ranks": (RankInputs(np.ones((2, 3), "int64")),)}, Refused, "[BN-SHAPE-1]"),
        ({"ranks": (RankInputs(np.ones(3, "float32")),)}, Refused, "x has rank 1"),
        (
            {"config": BatchNormConfig(axis=2, epsilon=1e-5, decay=0.9, correction=0)},
            Refused,
            "axis is 2 for x of rank 2",
        ),
        ({"gamma": np.ones(2, "float32")}, Refused, "gamma has 2 numbers on 1 axes; expected one number per channel"),
        ({"ranks": (RankInputs(np.ones((2, 3), "float32")),) * 2}, NotSupported, "one rank"),
        ({"gamma_dot": np.ones(3, "float32")}, NotSupported, "no gamma_dot"),
    ],
)
def test_what_it_cannot_or_must_not_do_is_said(
    port: Subject, change: dict[str, object], raised: type, said: str
) -> None:
    given: dict[str, object] = {
        "config": BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0),
        "ranks": (RankInputs(np.ones((2, 3), "float32")),),
    }
    with pytest.raises(raised, match=re.escape(said)):
        port.run(Case(**(given | change)))


@needs_compiler
def test_damaged_requests_do_no_damage(folder: Path) -> None:
    checked = folder / "checked"
    flags = [*FLAGS, "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    made = subprocess.run(
        [*COMPILER, *flags, str(SOURCE), "-o", str(checked), "-lm"], capture_output=True, text=True, check=False
    )
    program = checked if made.returncode == 0 else folder / "port"  # not every compiler comes with the sanitizers
    lines = damaged_requests()
    done = subprocess.run(
        [program],
        input="\n".join(lines).encode() + b"\n",
        capture_output=True,
        check=False,
        timeout=60,
        env=os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"},
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    kinds = [next(iter(answer)) for answer in answers]
    assert set(kinds) <= {"outcome", "unsupported", "refused", "error"}
    assert kinds.count("error") > 1000


# The skeleton -----------------------------------------------------------------------------------------------


def test_the_plumbing_of_the_skeleton_is_that_of_the_port() -> None:
    skeleton = resources.files("bnspec_conformance").joinpath("templates", "port.c.txt").read_text(encoding="utf-8")

    def plumbing(text: str) -> tuple[str, str, str]:
        first, second, third = (text.index(f"/* ---- {part}") for part in ("1.", "2.", "3."))
        return text[text.index("#include") : first], text[first:second], text[third:]

    assert plumbing(skeleton) == plumbing(SOURCE.read_text())
