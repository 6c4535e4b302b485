"""The examples do what they say, in a short run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance.run.launch import command

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "train_digits.py"
RESNET = ROOT / "examples" / "torch_resnet.py"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")


def run(arguments: Any, folder: Path) -> Any:
    return subprocess.run(
        list(map(str, arguments)),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
def test_four_processes_train_the_weights_that_one_trains_on_the_joined_batch(tmp_path: Path) -> None:
    given = [DIGITS, "--check", "--dtype", "float64", "--epochs", "1", "--limit", "240"]
    done = run(command(4, list(map(str, given))), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    said, difference = line.rsplit(" ", 1)
    assert said == "4 processes and one: weights differ by at most"
    assert 0 < float(difference) < 1e-10  # 0 would be no comparison: the sums are in another order


def test_one_process_compares_and_plots(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    done = run([sys.executable, DIGITS, "--epochs", "1", "--limit", "400", "--plot", "digits.png"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["local", "sync", "ghost", "renorm"]
    assert lines[1].split()[1:3] == lines[2].split()[1:3]  # with one process they are the same
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_two_processes_of_torch_train_in_every_mode_and_plot(tmp_path: Path) -> None:
    drawn = importlib.util.find_spec("matplotlib") is not None
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", RESNET]
    done = run([*start, "--epochs", "1", "--limit", "64", *(["--plot", "resnet.png"] if drawn else [])], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    known = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}  # the first rank's alone
    assert list(known) == ["local", "sync", "ghost", "renorm"]
    assert all(0 < share <= 100 for share in known.values())
    assert not drawn or (tmp_path / "resnet.png").read_bytes().startswith(b"\x89PNG")
