"""Pages that are generated, wholly or in parts.

`python tests/support/pages/generated_pages.py` writes those that differ.

docs/matrix.md and docs/performance.md are not among them: they hold measurements, which `make matrix` and
`make bench-cpu` repeat.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dialect_table import with_table

from bnspec._clauses import clauses
from bnspec_conformance.mutants.summary import markdown
from bnspec_conformance.subjects.pipe import conversation

__all__ = ["COMPILER", "PAGES", "main"]

ROOT = Path(__file__).parents[3]

#: Words of the command that compiles C.
COMPILER = shlex.split(os.environ.get("CC", "cc"))

_COUNT = re.compile(r"\b[0-9]+ of [0-9]+ clauses looked at: ([0-9]+) passed, [0-9]+ not supported")
_CONVERSATION = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)


def mutants(old: str) -> str:
    """Return the page of all mutants."""
    return markdown()


def porting(old: str) -> str:
    """Return the page with the number of clauses of SPEC.md in the run that it shows."""
    all_ = len(clauses())
    return _COUNT.sub(
        lambda m: f"{all_} of {all_} clauses looked at: {m[1]} passed, {all_ - int(m[1])} not supported", old
    )


def protocol(old: str) -> str:
    """Return the page with the conversation that the port in C has; without a C compiler, the page as it is."""
    if shutil.which(COMPILER[0]) is None:
        print(f"docs/protocol.md is left as it is: no C compiler, {COMPILER[0]} is not there", file=sys.stderr)
        return old
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        port = Path(folder) / "port"
        source = ROOT / "examples" / "port-c" / "port.c"
        subprocess.run(
            [*COMPILER, "-std=c99", "-O2", "-ffp-contract=off", str(source), "-o", str(port), "-lm"], check=True
        )
        status = conversation.main([f"exec:{port}"])
    if status:
        raise RuntimeError(f"the conversation with examples/port-c ended with status {status}")
    return _CONVERSATION.sub(lambda _: said.getvalue(), old, count=1)


#: From a page's path to a function that makes the new text of the old one.
PAGES: dict[str, Callable[[str], str]] = {
    "bnspec/SPEC.md": with_table,
    "docs/mutants.md": mutants,
    "docs/porting.md": porting,
    "docs/protocol.md": protocol,
}


def main() -> None:
    """Write every page that differs from what is generated, and name it."""
    for name, generate in PAGES.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = generate(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
        print(f"{name}: {'as it was' if new == old else 'written'}")


if __name__ == "__main__":
    main()
