"""Defaults, names and departures of a framework's layer, which `bnspec_conformance.probe` asks for besides its cases.

An adapter's class takes `HasDefaults` as a base and is made with ``defaults=Defaults(...)``; the methods below are then
those that docs/probe.md describes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.subjects.contract import NotSupported

__all__ = ["DefaultLayer", "Defaults", "HasDefaults", "Step"]

#: ``(case, arguments) -> (y, new state)``: one call of a layer that is built with these of its own arguments and no
#: others, with the case's parameters and running state; the new state is None where the case brings none.
Step = Callable[[Case, Mapping[str, Any]], "tuple[Array, dict[str, Array] | None]"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """One layer, as its framework makes it.

    Attributes
    ----------
    step : Step
    momentum : str or None
        The framework's own name of the argument that says how much the running statistics move.
    names : callable or None
        Our fields to the names of a real layer's variables.
    departures : mapping of str to str
        Conventions in which it is known to differ from its row of `bnspec.dialects` or from the specification.
    arguments : mapping of str to Any
        Arguments that it is always built with, because they say which layer it is.
    """

    step: Step
    momentum: str | None = "momentum"
    names: Callable[[], Mapping[str, str]] | None = None
    departures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DefaultLayer:
    """A layer built with some arguments, as a subject."""

    name: str
    step: Step
    arguments: Mapping[str, Any]

    def supports(self, case: Case) -> str | None:
        """Return None: the adapter itself decides."""
        return None

    def run(self, case: Case) -> Outcome:
        """Return one call of the layer."""
        y, state = self.step(case, self.arguments)
        return Outcome((RankOutcome(y=y, state=state),))


@dataclasses.dataclass(kw_only=True)
class HasDefaults:
    """The base of an adapter whose layer has defaults of its own."""

    defaults: Defaults | None = None

    def default_layer(self) -> DefaultLayer:
        """Return the layer as it comes."""
        return self._made({})

    def with_momentum(self, momentum: float) -> DefaultLayer:
        """Return the layer with the framework's own argument."""
        own = self._own()
        if own.momentum is None:
            raise NotSupported("it takes no momentum")
        return self._made({own.momentum: momentum})

    def variable_names(self) -> Mapping[str, str]:
        """Our fields to the names of its variables."""
        own = self._own()
        if own.names is None:
            raise NotSupported("its variables have no names")
        return own.names()

    def departures(self) -> Mapping[str, str]:
        """Return the conventions in which it is known to differ."""
        return {} if self.defaults is None else self.defaults.departures

    def _own(self) -> Defaults:
        if self.defaults is None:
            raise NotSupported("its adapter makes no layer with the framework's defaults")
        return self.defaults

    def _made(self, arguments: Mapping[str, Any]) -> DefaultLayer:
        own = self._own()
        return DefaultLayer("default layer", own.step, {**own.arguments, **arguments})
