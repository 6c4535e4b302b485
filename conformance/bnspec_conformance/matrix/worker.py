"""One row's process: run a subject, and probe it while its library is loaded.

``python -m bnspec_conformance.matrix.worker NAME REPORT FINDINGS [arguments of run]``
"""

import sys
from pathlib import Path

from bnspec_conformance.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    name, report, findings, *arguments = sys.argv[1:]
    main(["run", name, "--json", report, *arguments])
    if Path(report).exists():
        main(["probe", name, "--json", findings])
