"""The first words with a program: ``python -m bnspec_conformance.subjects.pipe.conversation exec:./port`` prints them.

The numbers are those of SPEC.md's session, which come out exact, so that they can be followed by hand. The examples in
docs/protocol.md are this command's output.
"""

import sys
from collections.abc import Sequence

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.subjects.contract import NotSupported, Refused, SubjectError
from bnspec_conformance.subjects.pipe.program import Program, ProgramError

__all__ = ["cases", "main"]


def cases() -> dict[str, Case]:
    """Return the cases by name: a training call, one that must be refused, and inference."""

    def column(*values: float) -> Array:
        return np.asarray([[v] for v in values], "float32")

    def one(value: float) -> Array:
        return np.asarray([value], "float32")

    config = BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0)
    corrected = BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=1)
    x, dy = column(0, 0, 0, 2), column(1, 0, 0, 0)
    fresh = {"mean": one(0), "var": one(1)}
    return {
        "a training call": Case(config=config, ranks=(RankInputs(x, dy),), gamma=one(2), beta=one(1), state=fresh),
        "a call to be refused": Case(config=corrected, ranks=(RankInputs(column(3)),), state=fresh),
        "inference": Case(
            config=config,
            ranks=(RankInputs(x),),
            gamma=one(4),
            beta=one(1),
            state={"mean": one(1), "var": one(3.75)},
            mode="inference",
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every line that goes to the program, after ``> ``, and that comes back, after ``< ``."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print(
            "usage: python -m bnspec_conformance.subjects.pipe.conversation 'exec:PROGRAM ARGUMENTS'", file=sys.stderr
        )
        return 2
    status = 0
    try:
        program = Program(given[0] if given[0].startswith("exec:") else f"exec:{given[0]}", trace=print)
    except SubjectError as error:
        print(error, file=sys.stderr)
        return 2
    for what, case in cases().items():
        case = program.scope.fit(case)
        reason = program.supports(case)
        print(f"\n# {what}" + (f" is not asked: {reason}" if reason is not None else ""))
        if reason is None:
            try:
                program.run(case)
            except (NotSupported, Refused):
                pass
            except ProgramError as error:
                print(error, file=sys.stderr)
                status = 1
    program.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
