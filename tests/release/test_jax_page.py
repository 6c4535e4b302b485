"""Every program of docs/jax.md runs as it stands, where its framework is installed; one of them on four devices."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^```python( devices)?\n(.*?)^```", (ROOT / "docs" / "jax.md").read_text(), re.M | re.S)
LIBRARIES = ("jax", "optax", "flax", "equinox")


def test_there_are_programs_for_every_framework() -> None:
    texts = [text for _, text in PROGRAMS]
    for name in (*LIBRARIES, "jax.lax.scan", "jax.shard_map", "flax.linen", "nnx"):
        assert any(name in text for text in texts)
    assert [bool(devices) for devices, _ in PROGRAMS].count(True) == 1


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs(number: int, tmp_path: Path) -> None:
    devices, text = PROGRAMS[number]
    for name in LIBRARIES:
        if re.search(rf"^(import|from) {name}\b", text, re.M) and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    (tmp_path / "train.py").write_text(text)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"} if devices else {}
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"} | flags,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
