"""The page on a narrow screen: nothing of it is cut off, whether a clause is open or not."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bnspec_conformance import find_subject
from bnspec_conformance.report import document, write_html
from bnspec_conformance.trials.record import Record, Worst

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: What lies beyond the right edge of the window, scripts and listings that scroll by themselves apart.
MEASURE = """<script>addEventListener("load", () => {
  for (const part of document.querySelectorAll(".detail")) part.removeAttribute("hidden");
  const lies = (e) => getComputedStyle(e).display !== "none" && e.getBoundingClientRect().right > innerWidth + 1;
  const cut = [...document.querySelectorAll("body *")].filter((e) => !e.closest("pre, svg, .sr") && lies(e));
  const scrolls = [...document.querySelectorAll("body *")].filter((e) => !e.closest("pre, svg, .sr, .map.many")
    && e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX));
  const names = new Set([...cut, ...scrolls].map((e) => e.tagName + "." + e.className));
  parent.postMessage([innerWidth, ...names].join(), "*");
});</script></body>"""

FRAME = """<script>onmessage = (event) => { document.title = "measured:" + event.data; };</script>
<iframe src="inner.html" width="400" height="900" style="border:0"></iframe>"""


def page(names: list[str]) -> dict[str, Any]:
    numbers = {"what": "y", "rank": 0, "index": (0, 3), "got": 1.0009765625, "expected": 1.0, "error": 2.0**-10}
    numbers |= {"bound": 2.0**-20, "error_ulp": 8192.0, "bound_ulp": 8.0}
    case = "bfloat16(17,33,241) axis=1 epsilon=0.001 decay=0.75 correction=1 ghost_source='merged' state:mean,var vjp"
    more: dict[str, Any] = {"case": case, "script": "print(" + "'x'" * 60 + ")", "drawn": None}
    records = []
    for name in names:
        violation = {"clauses": ["BN-NORM-1"], "subject": name, "problem": "y is off", **more, **numbers}
        records += [
            Record("test_a::test_b", ("BN-NORM-1",), name, "failed", 0.1, reason="y is off", violation=violation),
            Record("test_a::test_c", ("BN-RUN-1",), name, "passed", 0.1, worst=Worst(0.5, 1, 2, "state.mean", case)),
            Record("test_a::test_d", ("BN-SYNC-1",), name, "not supported", 0.0, reason="it has no sync " * 9),
        ]
    subjects = {name: dataclasses.replace(find_subject("numpy"), name=name) for name in names}  # type: ignore[type-var]
    words = "bnspec-conformance run " + " ".join(names)
    return document(records, subjects, seed=0, max_examples=4, seconds=1.0, command=words)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("names", [["a_module_with_a_long_name:and_an_attribute"], ["numpy", "torch-nn"]])
def test_nothing_is_cut_off_on_a_narrow_screen(names: list[str], tmp_path: Path) -> None:
    assert BROWSER is not None
    write_html(tmp_path / "inner.html", page(names))
    text = (tmp_path / "inner.html").read_text()
    (tmp_path / "inner.html").write_text(text.replace("</body>", MEASURE))
    (tmp_path / "outer.html").write_text(FRAME)
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    more = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *more, (tmp_path / "outer.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert re.findall(r"<title>measured:([^<]*)", done.stdout) == ["400"]
