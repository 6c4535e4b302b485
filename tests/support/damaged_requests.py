"""Requests of the line protocol with damage, to put to programs that have to survive them."""

import json
import random
import re

from bnspec_conformance.cases.codecs.codec import case_to_json
from bnspec_conformance.subjects.pipe.conversation import cases

__all__ = ["damaged_requests"]


def damaged_requests(number: int = 2000, seed: int = 0) -> list[str]:
    """Return lines that were requests until values in them were exchanged, or characters lost or added."""
    dice = random.Random(seed)
    whole = [json.dumps({"op": "run", "case": case_to_json(case)}) for case in cases().values()]
    words = [
        "null",
        "true",
        "0",
        "-1",
        "18446744073709551615",
        "1e400",
        '"int64"',
        '"float32"',
        "{}",
        "[]",
        "[[]]",
        '"',
    ] * 2
    lines = []
    for _ in range(number):
        line = dice.choice(whole)
        for _ in range(dice.choice((1, 1, 2, 4))):
            if dice.random() < 0.5:  # a value becomes another one
                found = dice.choice([*re.finditer(r'null|true|-?\d+(\.\d+)?|"[^"]*"', line)] or [re.search("", line)])
                assert found is not None
                line = line[: found.start()] + dice.choice(words) + line[found.end() :]
            else:  # characters are lost, or others come in
                at = dice.randrange(len(line) + 1)
                line = (
                    line[:at]
                    + dice.choice(["", "{", "]", ",", ":", '"', "\\", "é"])
                    + line[at + dice.choice((0, 1, 9)) :]
                )
        lines.append(line)
    return lines
