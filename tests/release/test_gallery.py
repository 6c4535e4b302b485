"""The programs of the gallery draw the same files each time, and those that docs/gallery.md shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from installed_here import installed

from bnspec_conformance import known_subjects

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")

needs_matplotlib = pytest.mark.skipif(not installed("matplotlib"), reason="matplotlib is not installed")


def draw(program: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / f"gallery_{program}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_every_plot_and_says_versions() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(gallery/(\w+\.svg)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs" / "gallery").iterdir())
    assert re.search(r"drawn with matplotlib [\d.]+, Python [\d.]+, NumPy [\d.]+\.", PAGE)
    rows = re.findall(r"^\| (?!layer|---)[^|]+\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 8
    assert all(re.search(r"\d+\.\d+", versions) for versions in rows)


@needs_matplotlib
def test_statistics_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        draw("statistics", "--folder", tmp_path / folder)
    for name in ("ghost.svg", "sync.svg", "renorm.svg"):
        drawn = (tmp_path / "one" / name).read_bytes()
        assert drawn == (tmp_path / "two" / name).read_bytes()
        assert b"<dc:date>" not in drawn
        assert len(drawn) > 10_000


@needs_matplotlib
def test_errors_are_measured_and_written_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- accuracy -->\nold\n<!-- end accuracy -->\nafter\n", encoding="utf-8")
    subjects = ["numpy", "torch-nn"] if installed("torch") else ["numpy"]
    options = ["--folder", tmp_path, "--page", page, "--ratios", "1", "1000", "--subjects", *subjects]
    said = draw("accuracy", *options)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- accuracy -->\n\nShape (512, 8), float32")
    assert text.endswith("<!-- end accuracy -->\nafter\n")
    assert "old" not in text
    errors = {
        m[1]: float(m[2])
        for m in re.finditer(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", said, re.MULTILINE)
        if m[2][0].isdigit()
    }
    assert 2.0**-26 < errors["bnspec, NumPy"] < 2.0**-22  # y is below 4, whose unit in the last place is 2**-22
    if installed("torch"):
        assert errors["torch.nn"] > 100 * errors["bnspec, NumPy"]
    assert (tmp_path / "accuracy.svg").read_bytes().startswith(b"<?xml")


def test_the_subjects_of_the_plot_are_known() -> None:
    named = re.findall(r'^    "([\w-]+)": "', (ROOT / "examples" / "gallery_accuracy.py").read_text(), re.MULTILINE)
    assert len(named) == 9
    assert set(named) <= set(known_subjects())
