"""The command ``bnspec backends``: which backends there are, and which kernels serve them."""

import pytest

import bnspec
from bnspec._cli import main
from bnspec_backends import cpu


@pytest.mark.parametrize("kernels", ["blocked", "specification"])
def test_it_says_which_kernels_serve(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    with cpu.using(kernels):
        assert main(["backends"]) == 0
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    column = heading.index("kernels")
    assert [row[column] for row in rows if row[:1] == ["numpy"]] == [kernels]


def test_a_backend_without_its_library_has_no_kernels() -> None:
    for known in bnspec.known_backends():
        assert bool(known.kernels) == known.available, known.name
