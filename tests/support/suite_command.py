"""The command of the suite as a process of its own, which finds the wrong subjects of the tests."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["command"]

SUBJECTS = Path(__file__).parent / "subjects"


def command(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``bnspec-conformance`` in a folder, with more variables of the environment, and return what it printed."""
    paths = os.pathsep.join([str(SUBJECTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "bnspec_conformance", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
