"""Programs on a pipe: what they may do to us, what we say about it, and that the next case is unharmed."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bnspec import BatchNormConfig
from bnspec_conformance import Case, RankInputs, find_subject
from bnspec_conformance.cases.codecs.codec import case_from_json, case_to_json
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import NotSupported, ProgramError, Refused, SubjectError
from bnspec_conformance.subjects.pipe import program as module
from bnspec_conformance.subjects.pipe.program import Program
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.trial import Trial

# A program that does what a case's note tells it to. y is x; nothing is computed here.
SCRIPT = r"""
import json, os, signal, subprocess, sys, time

def say(value):
    print(json.dumps(value), flush=True)

hello = {"protocol": 1, "name": "odd"}
if len(sys.argv) > 1:
    hello = json.loads(sys.argv[1])
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        say(hello)
        continue
    case = request["case"]
    x = case["ranks"][0]["x"]
    right = {"outcome": {"ranks": [{"y": x}]}}
    note, _, more = case["note"].partition(" ")
    if note == "hang":
        time.sleep(600)
    elif note == "family":
        child = subprocess.Popen(["sleep", "600"])
        open(more, "w").write(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    elif note == "away":  # a session of its own, and another process in it that its parent leaves behind
        code = ("import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\n"
                "open(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(600)")
        subprocess.Popen([sys.executable, "-c", code, more], start_new_session=True)
        time.sleep(600)
    elif note == "exit":
        print("the reason", file=sys.stderr, flush=True)
        sys.exit(3)
    elif note == "leave":
        say(right)
        sys.exit(0)
    elif note == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif note == "garbage":
        print("loss = 0.5", flush=True)
    elif note == "half":
        sys.stdout.write('{"outcome": {"ra')
        sys.stdout.flush()
        sys.exit(0)
    elif note == "close":
        os.close(1)
        time.sleep(600)
    elif note == "flood":
        while True:
            os.write(1, b"x" * 65536)
    elif note == "twice":
        sys.stdout.write(json.dumps(right) + "\n" + json.dumps(right) + "\n")
        sys.stdout.flush()
    elif note == "late":
        say(right)
        time.sleep(0.2)
        print("one more thing", flush=True)
    elif note == "chatter":
        sys.stderr.write("e" * 3000000 + "the end")
        sys.stderr.flush()
        time.sleep(600)
    elif note == "deaf":
        os.close(0)
        time.sleep(600)
    elif note == "latin":
        os.write(1, b'{"error": "\xe9"}\n')
    elif note == "answer":
        print(more, flush=True)
    else:
        say(right)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "odd.py"
    path.write_text(SCRIPT)
    return f"exec:{sys.executable} -I -S {path}"


def a_case(note: str = "", size: int = 2, dtype: str = "float32") -> Case:
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    x = np.arange(size * 2.0).reshape(size, 2).astype(dtype)
    return Case(config=config, ranks=(RankInputs(x),), note=note)


def fails(program: Program, case: Case) -> str:
    """Text of the error that the case must end in; an ordinary case must then be answered as ever."""
    with pytest.raises(ProgramError) as caught:
        program.run(case)
    np.testing.assert_array_equal(program.run(a_case()).ranks[0].y, a_case().ranks[0].x)
    text = str(caught.value)
    assert "Traceback" not in text.replace("error ends: Traceback", "")
    assert case.describe() in text
    return text


# What a program does wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("exit", "the program ended with exit status 3 before it answered; expected one line of JSON."),
        ("exit", "Its standard error ends: the reason"),
        ("crash", "the program was killed by SIGSEGV before it answered"),
        ("half", 'ended with exit status 0 before it answered, in the middle of a line: \'{"outcome": {"ra\''),
        ("close", "the program closed its output before it answered, and runs on"),
        ("garbage", "the program answered 'loss = 0.5', which is no JSON"),
        ("latin", "which is no JSON: 'utf-8' codec"),
        ("twice", 'the program wrote more than one line: \'{"outcome"'),
        ("flood", "bytes without a line end: 'xxxx"),
        ("answer []", "the program answered '[]'; expected a JSON object"),
        ("answer {}", "answered with the keys (none); expected one of outcome, unsupported, refused, error"),
        ('answer {"outcome": {"ranks": []}, "refused": "no"}', "answered with the keys outcome, refused"),
        ('answer {"outcome": NaN}', "NaN is no JSON number"),
        ('answer {"outcome": 3}', "the answer is 3; expected an object with a list of ranks"),
        ('answer {"outcome": {"ranks": []}}', "gave 0 ranks; expected 1"),
        ('answer {"outcome": {"ranks": [{"z": null}]}}', "rank 0 of the answer has ['z']; expected some of"),
        (
            'answer {"outcome": {"ranks": [{"y": [1, 2]}]}}',
            "y is [1, 2]; expected an object with dtype, shape and data",
        ),
        (
            'answer {"outcome": {"ranks": [{"y": {"dtype": "float", "shape": [1], "data": "AAAA"}}]}}',
            "y has dtype 'float'; expected one of",
        ),
        (
            'answer {"outcome": {"ranks": [{"y": {"dtype": "float32", "shape": [2], "data": "AAAAAA=="}}]}}',
            "y has 4 bytes; expected 8 for float32 of shape [2]",
        ),
        ('answer {"refused": 7}', "gave refused 7; expected a string"),
        ('answer {"error": "no device"}', "the program reports an error of its own: no device"),
        ("answer " + "[" * 100000, "which is no JSON"),
    ],
)
def test_a_program_that_errs_is_told_so_and_replaced(script: str, note: str, said: str) -> None:
    text = fails(Program(script), a_case(note))
    assert said in text


def test_a_program_that_leaves_after_its_answer_is_told_so(script: str) -> None:
    program = Program(script)
    program.run(a_case("leave"))
    with pytest.raises(ProgramError, match="ended with exit status 0 before it answered"):
        program.run(a_case(size=3))
    program.run(a_case())


def test_a_line_that_nobody_asked_for_is_no_answer(script: str) -> None:
    program = Program(script)
    program.run(a_case("late"))
    time.sleep(0.5)
    with pytest.raises(ProgramError, match=r"wrote something that nobody asked for: 'one more thing\\n'"):
        program.run(a_case(size=3))
    program.run(a_case())


def test_a_program_may_say_that_it_cannot_or_will_not(script: str) -> None:
    program = Program(script)
    with pytest.raises(NotSupported, match="no tangents"):
        program.run(a_case('answer {"unsupported": "no tangents"}'))
    with pytest.raises(Refused, match=r"odd; expected even \[BN-RUN-4\]"):
        program.run(a_case('answer {"refused": "odd; expected even [BN-RUN-4]. Use another."}'))


# Hanging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("note", "size"), [("hang", 2), ("chatter", 2), ("deaf", 2), ("hang", 200_000)])
def test_a_program_that_hangs_is_killed_in_time(script: str, note: str, size: int) -> None:
    program = Program(script)
    program.run(a_case())
    program.deadline = 0.4
    started = time.monotonic()
    with pytest.raises(ProgramError, match=r"gave no answer within 0.4 s; expected one line of JSON") as caught:
        program.run(a_case(note, size))
    assert time.monotonic() - started < 3
    assert ("the end" in str(caught.value)) == (note == "chatter")
    assert len(str(caught.value)) < 3000
    program.deadline = 10.0
    program.run(a_case())


def test_what_the_program_started_is_ended_with_it(script: str, tmp_path: Path) -> None:
    program = Program(script)
    program.deadline = 1.0
    with pytest.raises(ProgramError, match="gave no answer"):
        program.run(a_case(f"family {tmp_path / 'pids'}"))
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert gone(pid)


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="only Linux tells what a process has inherited")
def test_what_left_the_session_is_ended_too(script: str, tmp_path: Path) -> None:
    program = Program(script)
    program.deadline = 2.0
    with pytest.raises(ProgramError, match="gave no answer"):
        program.run(a_case(f"away {tmp_path / 'pid'}"))
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_program_has_time_to_start_again_and_answer(script: str) -> None:
    program = Program(script, deadline=0.5)
    assert (program.deadline, Trial(program, ("BN-NORM-1",)).limit) == (0.5, program.patience)
    assert program.patience > 4 * 0.5


def test_a_case_that_hung_is_not_asked_again_and_after_some_nothing_is(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHORT", 0.1)
    lines: list[str] = []
    program = Program(script, trace=lines.append)
    program.deadline = 0.5
    program.run(a_case())
    with pytest.raises(ProgramError, match=r"no answer within 0\.5 s") as first:
        program.run(a_case("hang"))
    asked = len(lines)
    with pytest.raises(ProgramError) as second:
        program.run(a_case("hang"))
    assert str(first.value) == str(second.value)
    assert (first.value.hung, second.value.hung) == (True, True)
    assert len(lines) == asked
    program._slowest = 0.005  # what a longer run has seen of it
    with pytest.raises(ProgramError, match=r"no answer within 0\.1 s"):
        program.run(a_case("hang", 3))
    program._slowest = 0.01
    with pytest.raises(ProgramError, match=r"no answer within 0\.2 s"):
        program.run(a_case("hang", 4))
    program._slowest = 1.0  # never more than at first
    for size in range(5, 10):
        with pytest.raises(ProgramError, match=r"no answer within 0\.5 s"):
            program.run(a_case("hang", size))
    asked = len(lines)
    said = (
        r"not asked again in this run: it gave no answer to the case float32\(2,2\) .*\(hang\), nor to others, and 3 s"
    )
    with pytest.raises(ProgramError, match=said):
        program.run(a_case())
    assert len(lines) == asked


def test_an_interrupted_answer_is_not_taken_for_the_next(script: str) -> None:
    program = Program(script)

    class Interrupted(BaseException):
        pass

    def interrupt(line: str) -> None:
        program._process.ask = stop  # type: ignore[method-assign]

    def stop(line: bytes, deadline: float) -> bytes:
        raise Interrupted

    before, program._trace = program._process, interrupt
    with pytest.raises(Interrupted):
        program.run(a_case())
    program._trace = lambda line: None
    program.run(a_case())
    assert program._process is not before


# Beginning and end ------------------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    for _ in range(50):
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if os.path.exists("/proc") else ""
            )
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # dead; its new parent has not looked yet
            return True
        time.sleep(0.1)
    return False


def test_the_program_ends_with_its_subject(script: str) -> None:
    program = Program(script)
    assert program._process is not None
    pid = program._process._child.pid
    program.close()
    assert gone(pid)
    program.run(a_case())  # starts another one
    pid = program._process._child.pid
    del program
    gc.collect()
    assert gone(pid)


def test_the_program_ends_with_the_interpreter(tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        'import sys, time\nsys.stdin.readline()\nprint(\'{"protocol": 1, "name": "s"}\', flush=True)\ntime.sleep(600)\n'
    )
    code = (
        "from bnspec_conformance import find_subject\n"
        f"s = find_subject('exec:{sys.executable} -I -S {stubborn}')\nprint(s._process._child.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert gone(int(done.stdout))
    assert done.stderr == ""


def test_what_is_no_program_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("text")
    (tmp_path / "bare-text").write_text("no interpreter\n")
    (tmp_path / "bare-text").chmod(0o755)
    (tmp_path / "folder").mkdir()
    for name, said in {
        "exec:./absent": "'./absent' cannot be run: there is no such file.",
        "exec:./plain": "'./plain' cannot be run: it is not executable; `chmod +x` makes it so.",
        "exec:./folder": "'./folder' cannot be run: that is a folder.",
        "exec:bare-text": "'bare-text' cannot be run: it is not on PATH; write ./bare-text for one in this folder.",
        "exec:./bare-text": "the program cannot be started:",
        "exec: ": "names no program; expected exec:PROGRAM",
        "exec:'x": "not a command line: No closing quotation",
        "exec:true": "ended with exit status 0 before it answered",
        "exec:echo": "the program wrote something that nobody asked for",
    }.items():
        with pytest.raises(SubjectError) as caught:
            find_subject(name)
        if name != "exec:echo":  # which of two things it does first is its own affair
            assert said in str(caught.value)
    monkeypatch.setenv("BNSPEC_PROGRAM_DEADLINE", "soon")
    with pytest.raises(SubjectError, match="BNSPEC_PROGRAM_DEADLINE is 'soon'; expected seconds, a number > 0"):
        find_subject("exec:true")


def test_the_environment_sets_the_deadline(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNSPEC_PROGRAM_DEADLINE", "2.5")
    assert Program(script).deadline == 2.5


def test_lines_can_be_written_down(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNSPEC_PROGRAM_TRACE", str(tmp_path / "trace"))
    Program(script).run(a_case())
    lines = (tmp_path / "trace").read_text().splitlines()
    assert [line[:2] for line in lines] == ["> ", "< ", "> ", "< "]
    assert case_to_json(case_from_json(json.loads(lines[2][2:])["case"])) == case_to_json(a_case())


# What a program says of itself ------------------------------------------------------------------------------


def introduced(script: str, **hello: object) -> Program:
    return Program(f"{script} '{json.dumps({'protocol': 1, 'name': 'odd'} | hello)}'")


def test_what_a_program_declares_is_its_scope(script: str) -> None:
    least = introduced(script)
    assert (least.scope.profiles, least.scope.dtypes, least.scope.world) == ({"core"}, ("float32",), 1)
    assert (least.version(), least.examples, least.arithmetic, least.bound) == ("odd", 40, "float64", "strict")
    assert least.supports(a_case(dtype="float64")) == "it has no float64"
    much = introduced(
        script,
        version="1.2",
        profiles=["core", "running", "sync"],
        dtypes=["float64", "bfloat16"],
        ndims=[2, 4],
        axes="last",
        world=3,
        options={"single_value": ["keep", "floor"], "center": [True], "epsilon": [1e-5, 1]},
        arithmetic="float32",
        bound="plain",
        flushes=True,
        examples=7,
        dialect="torch",
    )
    assert much.scope.options == {"single_value": ("keep", "floor"), "center": (True,), "epsilon": (1e-5, 1)}
    assert (much.scope.axes, much.scope.ndims, much.scope.world) == ("last", (2, 4), 3)
    assert (much.version(), much.flushes, much.examples, much.dialect) == ("odd 1.2", True, 7, "torch")
    assert find_subject(much.name).name == much.name


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        ({"protocol": 2}, "the program speaks protocol 2; expected 1"),
        ({"name": ""}, "has no name; expected a string under the key name"),
        ({"name": 3}, "declares name 3; expected a string"),
        ({"profile": ["core"]}, "declares profile; expected protocol and some of name, version, profiles"),
        (
            {"profiles": ["core", "speed"]},
            "declares profiles ['core', 'speed']; expected a list of some of core, statistics",
        ),
        ({"profiles": "core"}, "declares profiles 'core'; expected a list"),
        ({"dtypes": ["int8"]}, "expected a list of some of float16, bfloat16, float32, float64"),
        ({"dtypes": [[]]}, "declares dtypes [[]]; expected a list of some of"),
        ({"ndims": [1]}, "declares ndims [1]; expected a list of some of 2, 3, 4, 5"),
        ({"axes": "second"}, "declares axes 'second'; expected one of any, first, last"),
        ({"world": True}, "declares world True; expected an integer >= 1"),
        ({"world": 2}, "declares world 2 and profiles core; expected world > 1 and the profile sync, or neither"),
        ({"options": []}, "expected an object with a list of values for each option"),
        ({"options": {"axis": [1]}}, "expected only the options epsilon, decay, correction, averaging"),
        ({"options": {"decay": 0.5}}, "expected a list of values for decay"),
        ({"options": {"single_value": ["rise"]}}, "expected some of raise, keep, floor for single_value, not 'rise'"),
        ({"options": {"correction": [False]}}, "expected some of 0, 1 for correction, not False"),
        ({"options": {"epsilon": ["small"]}}, "expected numbers for epsilon, not 'small'"),
        ({"arithmetic": "float16"}, "expected one of float64, twofold, float32"),
        ({"flushes": 1}, "declares flushes 1; expected true or false"),
        ({"examples": 1}, "declares examples 1; expected an integer >= 2"),
        ({"dialect": "pytorch"}, "declares dialect 'pytorch'; expected one of"),
        ({"error": "no device"}, "reports an error of its own: 'no device'"),
    ],
)
def test_a_declaration_is_read_strictly(script: str, hello: dict[str, object], said: str) -> None:
    with pytest.raises(SubjectError) as caught:
        introduced(script, **hello)
    assert said in str(caught.value)


# Under the suite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            '{"outcome": {"ranks": [{"y": {"dtype": "float32", "shape": [1], "data": "AAAAAA=="}}]}}',
            "y has shape (1,), ",
        ),
        ('{"outcome": {"ranks": [{}]}}', "returned no y, which its scope promises"),
        (
            '{"outcome": {"ranks": [{"y": {"dtype": "bool", "shape": [1], "data": "AA=="}}]}}',
            "y has shape (1,), expected",
        ),
        ("oh", "raised ProgramError: the program answered 'oh', which is no JSON"),
    ],
)
def test_a_wrong_answer_fails_its_clause(tmp_path: Path, reply: str, said: str) -> None:
    stub = tmp_path / "stub.py"
    hello = '{"protocol": 1, "name": "stub"}'
    stub.write_text(
        f"import sys\nfor line in sys.stdin:\n    print({hello!r} if 'hello' in line else {reply!r}, flush=True)\n"
    )
    subject = find_subject(f"exec:{sys.executable} -I -S {stub}")
    record = attempt(all_checks()["test_normalize::test_formula"], subject, Budget(3, 0))
    assert record.outcome == "failed"
    assert said in record.reason
    assert record.reason.startswith("BN-NORM-1: exec:")


def test_a_subject_behind_a_pipe_gives_the_bits_it_gives_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNSPEC_PROGRAM_DEADLINE", "120")  # kernels may have to be compiled first
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(
        "import json, sys\n"
        "from bnspec_conformance import find_subject\n"
        "from bnspec_conformance.cases.codecs.codec import case_from_json, outcome_to_json\n"
        "subject = find_subject('numpy')\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if request['op'] == 'hello':\n"
        "        answer = {'protocol': 1, 'name': 'numpy', 'profiles': sorted(subject.scope.profiles), 'world': 4,\n"
        "                  'dtypes': list(subject.scope.dtypes), 'evaluation': subject.evaluation}\n"
        "    else:\n"
        "        answer = {'outcome': outcome_to_json(subject.run(case_from_json(request['case'])))}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    there, here = find_subject(f"exec:{sys.executable} {wrapper}"), find_subject("numpy")
    assert there.scope.profiles == here.scope.profiles
    for name in (
        "test_gradients::test_everything_together",
        "test_sync::test_whole_batch",
        "test_precision::test_narrow",
    ):
        records = [attempt(all_checks()[name], subject, Budget(4, 0)) for subject in (there, here)]
        assert [r.outcome for r in records] == ["passed", "passed"]
        assert records[0].worst == records[1].worst is not None
