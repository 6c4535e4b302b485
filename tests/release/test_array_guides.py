"""Every program of docs/numpy.md and docs/cupy.md runs as it stands; CuPy's on an emulated device where CuPy is not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from installed_here import installed
from mpi_jobs import COMPILED as EMULATED

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    (name, number): text
    for name in ("numpy", "cupy")
    for number, text in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"), re.M | re.S)
    )
}


def test_there_are_programs_of_a_size_to_read() -> None:
    assert [sum(page == name for page, _ in PROGRAMS) for name in ("numpy", "cupy")] == [3, 2]
    assert all(15 <= len(text.splitlines()) <= 60 for text in PROGRAMS.values())


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_a_program_runs_and_prints(page: str, number: int, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    paths = [str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance"), os.environ.get("PYTHONPATH", "")]
    if page == "cupy":
        if installed("cupy"):
            pytest.skip("CuPy is installed, which hides the emulated one; it needs a device")
        environment |= EMULATED
        paths.insert(0, EMULATED["PYTHONPATH"])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[page, number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
