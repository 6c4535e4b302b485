"""Every program and command of docs/moving.md runs as it stands, in order, and prints what the page says."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|console) ?(\S*)\n(.*?)^```", PAGE, re.M | re.S)
BNSPEC = [sys.executable, "-c", "import sys; from bnspec._cli import main; sys.exit(main(sys.argv[1:]))"]


def test_there_are_programs_and_commands() -> None:
    assert [name for kind, name, _ in BLOCKS if kind == "python"] == [
        "save.py", "run.py", "whole.py", "same.py", "count.py",
    ]  # fmt: skip
    assert sum(text.startswith("$ bnspec convert") for _, _, text in BLOCKS) == 4


@pytest.mark.parametrize("suffix", "bin eqx h5 keras msgpack npz onnx orbax pt pth safetensors".split())
def test_every_format_is_in_the_table(suffix: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = project[project.index('"bnspec.checkpoints"') : project.index('"bnspec.communicators"')]
    assert re.search(rf"^{suffix} = ", declared, re.M)
    assert re.search(rf"^\|.*`\.{suffix}`", PAGE, re.M)
    assert len(re.findall(r"^\w+ = ", declared, re.M)) == 11


def test_what_the_page_shows_is_what_happens(tmp_path: Path) -> None:
    for name in ("flax", "keras", "h5py"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")

    def run(command: list[str]) -> Any:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ran = set()
    for kind, name, text in BLOCKS:
        if kind == "python":
            (tmp_path / name).write_text(text, encoding="utf-8")
            if f"$ python {name}" not in PAGE:
                run([sys.executable, name])
                ran.add(name)
            continue
        line, _, printed = text.partition("\n")
        program, *arguments = shlex.split(line.removeprefix("$ "))
        start = {"bnspec": BNSPEC, "python": [sys.executable], "cat": ["cat"]}[program]
        assert run([*start, *arguments]) == printed
        ran.add(program)
    assert ran == {"save.py", "whole.py", "bnspec", "python", "cat"}
