"""Every program of docs/torch.md runs as it stands; the one for torchrun under torchrun."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^```python( torchrun)?\n(.*?)^```", (ROOT / "docs" / "torch.md").read_text(), re.M | re.S)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def test_there_are_programs_and_one_of_several_processes() -> None:
    assert len(PROGRAMS) >= 6
    assert [bool(launched) for launched, _ in PROGRAMS].count(True) == 1


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs(number: int, tmp_path: Path) -> None:
    launched, text = PROGRAMS[number]
    if not launched and "torch.compile" in text:  # what a graph becomes in C++ is torch's business, and takes minutes
        text = text.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"')
    (tmp_path / "train.py").write_text(text)
    start = [sys.executable]
    if launched:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, "train.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if launched:
        assert sorted(re.findall(r"rank \d of 2", done.stdout)) == ["rank 0 of 2", "rank 1 of 2"]
