"""Declaration of a program in its answer to ``hello``, read strictly: a misspelt key must not widen a promise."""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bnspec import BatchNormConfig, dialects
from bnspec._config import RenormForm
from bnspec_conformance.bounds.declared import ARITHMETICS, EVALUATED, Evaluation, checked_evaluation
from bnspec_conformance.cases.limits import AFFINE, EXTENTS, FLOATS, PARAMETER_DTYPES, REFUSED
from bnspec_conformance.cases.scope import PROFILES, Scope

__all__ = ["OPTIONS", "Declaration", "declaration"]


def _choices(kind: Any) -> tuple[Any, ...]:
    """Return the values of a type of few values; none for numbers."""
    return (True, False) if kind is bool else typing.get_args(kind)


#: Fields of the configuration whose values a program can narrow down. The channel axis is `axes`; whether there are
#: ghost batches and renorm are profiles.
OPTIONS = {
    f.name: _choices(f.type)
    for f in dataclasses.fields(BatchNormConfig)
    if f.name not in ("axis", "renorm", "virtual_batch_size")
} | {"renorm.form": typing.get_args(RenormForm), "mask.channels": (True, False)}


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A program's answer to ``hello``, with the defaults of what it left out.

    Attributes
    ----------
    name, version : str
        As the report shows them.
    scope : Scope
    arithmetic, evaluation, bound, flushes, examples, dialect
        As of `bnspec_conformance.subjects.Subject`.
    """

    name: str
    scope: Scope
    version: str = ""
    arithmetic: Literal["float64", "twofold", "float32"] = "float64"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)
    bound: Literal["strict", "plain"] = "strict"
    flushes: bool = False
    examples: int = 40
    dialect: str | None = None


def declaration(answer: dict[str, Any], protocol: int) -> Declaration:
    """Read the answer to ``hello``.

    Raises
    ------
    ValueError
        For another protocol, for a key that is unknown or missing and for a value that is not allowed; the text
        continues "the program".
    """
    if answer.get("protocol") != protocol:
        raise ValueError(f"speaks protocol {answer.get('protocol')!r}; expected {protocol}")
    unknown = sorted(answer.keys() - _READ.keys() - {"protocol"})
    if unknown:
        raise ValueError(f"declares {', '.join(unknown)}; expected protocol and some of {', '.join(_READ)}")
    if not answer.get("name"):
        raise ValueError("has no name; expected a string under the key name")
    given: dict[str, Any] = {}
    for key, value in answer.items():
        if key != "protocol":
            read, expected = _READ[key]
            try:
                given[key] = read(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"declares {key} {value!r:.200}; expected {str(error) or expected}") from None
    profiles = given.get("profiles", ("core",))
    world = given.get("world", 1)
    if ("sync" in profiles) != (world > 1):
        expected = "world > 1 and the profile sync, or neither"
        raise ValueError(f"declares world {world} and profiles {', '.join(profiles)}; expected {expected}")
    words = {field.name for field in dataclasses.fields(Scope)}
    said = {"dtypes": ("float32",), **{key: value for key, value in given.items() if key in words}}
    scope = Scope(**(said | {"profiles": frozenset(profiles), "world": world}))
    own = {field.name for field in dataclasses.fields(Declaration)}
    return Declaration(scope=scope, **{key: value for key, value in given.items() if key in own})


def _words(allowed: tuple[str, ...], *, least: int = 1) -> tuple[Callable[[Any], tuple[str, ...]], str]:
    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) < least or not all(word in allowed for word in value):
            raise ValueError
        return tuple(value)

    return read, f"a list of some of {', '.join(allowed)}"


def _word(*allowed: str) -> tuple[Callable[[Any], str], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return read, f"one of {', '.join(allowed)}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _refuses(value: Any) -> bool | tuple[str, ...]:
    return value if isinstance(value, bool) else _words(REFUSED, least=0)[0](value)


def _whole(least: int) -> tuple[Callable[[Any], int], str]:
    def read(value: Any) -> int:
        if type(value) is not int or value < least:
            raise ValueError
        return int(value)

    return read, f"an integer >= {least}"


def _ranks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(n) is int and 2 <= n <= 5 for n in value):
        raise ValueError
    return tuple(value)


def _options(value: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(value, dict):
        raise ValueError
    for name, allowed in value.items():
        if name not in OPTIONS:
            raise ValueError(f"only the options {', '.join(OPTIONS)}")
        known = OPTIONS[name]
        if not isinstance(allowed, list) or not allowed:
            raise ValueError(f"a list of values for {name}")
        for one in allowed:
            if not (any(type(one) is type(k) and one == k for k in known) if known else type(one) in (int, float)):
                wanted = f"some of {', '.join(map(str, known))}" if known else "numbers"
                raise ValueError(f"{wanted} for {name}, not {one!r}")
    return {name: tuple(allowed) for name, allowed in value.items()}


#: How each key is read, and what is expected where it cannot be.
_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (_text, "a string"),
    "version": (_text, "a string"),
    "profiles": _words(tuple(PROFILES)),
    "dtypes": _words(FLOATS),
    "ndims": (_ranks, "a list of some of 2, 3, 4, 5"),
    "axes": _word("any", "first", "last"),
    "world": _whole(1),
    "ragged": (_flag, "true or false"),
    "same_bits": (_flag, "true or false"),
    "declared": (_flag, "true or false"),
    "min_count": _whole(1),
    "inference_grad": (_flag, "true or false"),
    "parameter_dtypes": _words(PARAMETER_DTYPES),
    "affine": _word(*AFFINE),
    "nonempty": _words(EXTENTS, least=0),
    "refuses": (_refuses, f"true, false or a list of some of {', '.join(REFUSED)}"),
    "options": (_options, "an object with a list of values for each option"),
    "arithmetic": _word(*reversed(ARITHMETICS)),
    "evaluation": (checked_evaluation, f"an object with some of {', '.join(EVALUATED)}"),
    "bound": _word("strict", "plain"),
    "flushes": (_flag, "true or false"),
    "examples": _whole(2),
    "dialect": _word(*sorted(dialects.names())),
}
