"""Parameters in a subject's name: they reach its factory, stay in every name of it, and are refused elsewhere."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance.cli import main
from bnspec_conformance.commands.subject_options import named, named_of_those_that_take
from bnspec_conformance.matrix.collect import known_failures
from bnspec_conformance.subjects import SubjectError, asked_as, find_subject, is_ours
from bnspec_conformance.subjects.find import takes
from bnspec_conformance.subjects.parameters import split, with_parameters

PORT = """
class Port:
    name = "mine"

    def __init__(self, *, level: str = "low", count: int = 3):
        self.level, self.count = level, count

    def version(self):
        return f"mine 1.0 at {self.level}"

    def supports(self, case):
        return None

    def run(self, case):
        raise ValueError(f"level {self.level}")

plain = Port()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "port_with_parameters.py").write_text(PORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "port_with_parameters", raising=False)
    return "port_with_parameters"


def options(**given: str) -> Namespace:
    return Namespace(**({"device": None, "provider": None} | given))


@pytest.mark.parametrize(
    ("name", "bare", "given"),
    [
        ("torch-nn", "torch-nn", {}),
        ("torch-nn@device=cuda:1", "torch-nn", {"device": "cuda:1"}),
        ("m:port@a=1,b=x y", "m:port", {"a": "1", "b": "x y"}),
        ("onnx:a@b/model.onnx", "onnx:a@b/model.onnx", {}),
        ("onnx:a@b.onnx@provider=P", "onnx:a@b.onnx", {"provider": "P"}),
        ("exec:./port @level=3", "exec:./port @level=3", {}),
        ("torch-nn@cuda", "torch-nn@cuda", {}),
        ("torch-nn@device=", "torch-nn@device=", {}),
    ],
)
def test_a_name_is_split_at_its_parameters(name: str, bare: str, given: dict[str, str]) -> None:
    assert split(name) == (bare, given)
    assert not given or with_parameters(bare, given) == name


def test_parameters_reach_the_factory_and_stay_in_every_name(module: str) -> None:
    asked = f"{module}:Port@level=high"
    made = find_subject(asked)
    assert (made.name, asked_as(made), made.version()) == ("mine@level=high", asked, "mine 1.0 at high")
    assert find_subject(f"{module}:Port").name == "mine"
    alone = find_subject(asked, isolate=True)
    assert (alone.name, asked_as(alone), alone.version()) == ("mine@level=high", asked, "mine 1.0 at high")


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (":Port@depth=3", "there is no parameter 'depth'; those of {}:Port are level. Leave it out."),
        (":Port@count=3", "there is no parameter 'count'; those of {}:Port are level. Leave it out."),
        (":plain@level=high", "there is no parameter 'level'; it takes none. Leave it out."),
        (":Port@level=a,level=b", "has parameter level twice; expected each once."),
    ],
)
def test_what_a_subject_does_not_take_is_refused(module: str, ending: str, says: str) -> None:
    with pytest.raises(SubjectError) as caught:
        find_subject(module + ending)
    assert says.format(module) in str(caught.value)


def test_a_report_names_the_same_subject_again(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"{module}:Port@level=high"
    report = tmp_path / "report.json"
    words = ["--clause", "BN-NORM-1", "-k", "test_formula", "--max-examples", "2", "--no-shrink", "--sizes", "none"]
    assert main(["run", asked, "--json", str(report), *words]) == 1
    content = json.loads(report.read_text())
    assert [(s["name"], s["asked"]) for s in content["subjects"]] == [("mine@level=high", asked)]
    (failed,) = [check for check in content["checks"] if check["outcome"] == "failed"]
    assert f"find_subject({asked!r})" in failed["violation"]["script"]
    capsys.readouterr()
    assert main(["replay", str(report)]) == 2  # it is no subject of bnspec's, so it has to be named
    assert f"--subject {asked}" in capsys.readouterr().err
    assert main(["replay", str(report), "--subject", asked]) == 1
    assert "level high" in capsys.readouterr().out


def test_options_are_short_for_parameters() -> None:
    assert named(["torch-nn", "torch-functional"], options(device="cpu")) == [
        "torch-nn@device=cpu",
        "torch-functional@device=cpu",
    ]
    assert named(["numpy"], options()) == ["numpy"]
    with pytest.raises(SubjectError, match="has a device in its name, and --device gives another"):
        named(["torch-nn@device=cpu"], options(device="cuda"))
    with pytest.raises(SubjectError, match="a program takes no device"):
        named(["exec:./port"], options(device="cuda"))


def test_the_matrix_keeps_those_that_take_an_option() -> None:
    every = ["numpy", "onnxruntime", "torch-nn", "torch-transposed"]
    assert named_of_those_that_take(every, options()) == every
    assert named_of_those_that_take(every, options(device="cpu")) == [
        "torch-nn@device=cpu",
        "torch-transposed@device=cpu",
    ]
    with pytest.raises(SubjectError, match="no subject takes --device and --provider together"):
        named_of_those_that_take(every, options(device="cpu", provider="CPUExecutionProvider"))
    assert not takes("no-such-subject", ["device"])


def test_a_file_may_name_bnspec_s_own_subject_with_its_parameters() -> None:
    assert is_ours("torch-nn@device=cpu")
    assert not is_ours("onnx:model.onnx")
    assert not is_ours("torchscript:model.pt@device=cpu")
    assert known_failures("torch-nn@device=cuda") == known_failures("torch-nn") is not None


def test_a_device_of_torch_that_is_not_there_is_an_error() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    made: Any = find_subject("torch-nn@device=cpu")
    assert (made.name, made.device) == ("torch-nn@device=cpu", "cpu")
    missing = ["nonsense", "meta"] + ([] if torch.cuda.is_available() else ["cuda"])
    for name in missing:
        with pytest.raises(SubjectError, match=rf"torch cannot compute on device '{name}': .*\. Here it has cpu"):
            find_subject(f"torch-nn@device={name}")


def test_a_provider_that_is_not_there_is_an_error() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(SubjectError, match=r"no provider 'Nothing' here; expected one of .*CPUExecutionProvider"):
        find_subject("onnxruntime@provider=Nothing")
    assert find_subject("onnxruntime@provider=CPUExecutionProvider").supports is not None


def test_run_says_what_is_wrong_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "torch-nn@device=cpu", "--device", "cpu"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert main(["run", "numpy", "--device", "cpu"]) == 2
    assert "there is no parameter 'device'; it takes none" in "".join(capsys.readouterr())
    assert main(["probe", "numpy", "--provider", "P"]) == 2
    assert "there is no parameter 'provider'" in capsys.readouterr().err
