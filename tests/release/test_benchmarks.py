"""The benchmarks still run, and what they time computes the right thing; no time is looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_cpu(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("numba")
    pytest.importorskip("torch")
    out, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end tables -->\nafter\n", encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "cpu.py"), "--shapes", "small", "--layouts", layout, "--rounds", "2"]
    command += ["--dtypes", "float32", "--peers", "torch", "numpy", "--json", str(out), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["op"] for row in rows] == ["fwd", "fwdbwd", "infer"]
    for row in rows:
        for name in ("bnspec", "bnspec (torch)", "torch", "numpy"):
            found = row["found"][name]
            assert found["ms"] > 0, name
            assert found["error"] < (2.0**-23 if name == "bnspec" else 2.0**-16), name
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "(8, 16, 8, 8)" in text
