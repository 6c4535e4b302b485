"""Choice of the kernels that serve a library's arrays: by a call, by the environment, or left to bnspec."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bnspec import Kernels, _discovery
from bnspec._errors import refusal
from bnspec_backends._environment import choice

__all__ = ["Choice"]


class Choice:
    """Choice between the kernels that there are for the arrays of some libraries.

    Parameters
    ----------
    makers : dict of str to callable
        Names of the kernels, and what makes them or raises ImportError.
    variable : str
        Name of the variable of the environment that chooses too.
    libraries : sequence of str
        The libraries whose kernels depend on it.
    kind : str
        Their name where one is refused, such as "CPU kernels".
    """

    def __init__(
        self, makers: dict[str, Callable[[], Kernels]], *, variable: str, libraries: Sequence[str], kind: str
    ) -> None:
        self.names = tuple(makers)
        self._makers, self._variable, self._libraries, self._kind = makers, variable, libraries, kind
        self._chosen = ""

    def asked(self) -> str:
        """Return the kernels chosen by a call or by the environment; an empty text if none were."""
        return self._chosen or choice(self._variable, self.names, "BN-ERR-5")

    def make(self, name: str) -> Kernels:
        """Return new kernels of a name.

        Raises
        ------
        ValueError
            For another name.
        ImportError
            If they need a package that is not installed.
        """
        if name not in self._makers:
            raise refusal(
                ValueError,
                "BN-ERR-5",
                got=f"{self._kind} {name!r}",
                expected="one of " + ", ".join(self.names),
                do="Leave the choice to bnspec, or name one of these.",
            )
        return self._makers[name]()

    def use(self, name: str) -> None:
        """Serve the libraries' arrays by other kernels from now on; where `make` raises, nothing is changed."""
        self.make(name)
        self._set(name)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Use other kernels inside a ``with`` block."""
        before = self._chosen
        self.use(name)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, name: str) -> None:
        self._chosen = name
        for library in self._libraries:
            _discovery.forget_kernels(library)
