"""``python -m bnspec_conformance`` is the command ``bnspec-conformance``."""

import sys

from bnspec_conformance.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
