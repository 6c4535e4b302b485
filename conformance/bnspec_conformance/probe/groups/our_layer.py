"""bnspec's own layer, for the probe's questions about layers: `bnspec.BatchNorm` on one backend."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.subjects import names_by_value

__all__ = ["OurLayer"]


class OurLayer:
    """`bnspec.BatchNorm` with one backend's arrays; see `bnspec_conformance.probe` for what each method answers.

    Parameters
    ----------
    backend : Backend
    **options
        Of the layer; by default none.
    """

    name = "bnspec.BatchNorm"

    def __init__(self, backend: Any, **options: Any) -> None:
        self._backend, self._options = backend, options

    def supports(self, case: Case) -> str | None:
        """Return None: a layer supports every case that the functions do."""
        return None

    def run(self, case: Case) -> Outcome:
        """Return one call of the layer with the case's parameters and state."""
        made = self._layer(case).train(case.mode == "batch")
        with np.errstate(all="ignore"):
            y = made(self._backend.asarray(case.ranks[0].x))
        return Outcome((RankOutcome(y=np.asarray(self._backend.to_numpy(y)), state=self._state(made)),))

    def default_layer(self) -> "OurLayer":
        """Return a layer without options."""
        return OurLayer(self._backend, **self._options)

    def with_momentum(self, momentum: float) -> "OurLayer":
        """Return a layer with the alias momentum of tensorpack."""
        return OurLayer(self._backend, **self._options, momentum=momentum)

    def variable_names(self) -> dict[str, str]:
        """Return the names in the state of a layer that counts, so that the counter has one too."""
        marks = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0, "count": 11.0}
        asarray = self._backend.asarray
        held = {name: asarray(np.full(2, mark, "float32")) for name, mark in marks.items()}
        held["count"] = asarray(np.full(2, 11, "int64"))
        made = bnspec.BatchNorm(averaging="cumulative", ema_update="skip", **self._options)
        made.params = bnspec.Params(held.pop("gamma"), held.pop("beta"))
        made.state = bnspec.RunningState(**held)
        variables = {name: np.asarray(self._backend.to_numpy(v)) for name, v in made.state_dict().items()}
        return names_by_value(variables, marks)

    def timeline(self, case: Case) -> Iterator[tuple[str, Mapping[str, Array]]]:
        """Yield the state after the call, the backward pass, and the run of the collected updates."""
        made = self._layer(case)
        x = self._backend.asarray(case.ranks[0].x)
        with bnspec.training_context() as context:
            y = made(x)
            yield "call", self._state(made)
            made.backward(y)
            yield "backward", self._state(made)
            context.updates.run()
        yield "collected", self._state(made)

    def _layer(self, case: Case) -> bnspec.BatchNorm:
        made = bnspec.BatchNorm(axis=case.config.axis, **self._options)
        asarray = self._backend.asarray
        dtype = "float64" if case.ranks[0].x.dtype == np.float64 else "float32"
        gamma = np.ones(case.channels, dtype) if case.gamma is None else case.gamma
        beta = np.zeros(case.channels, dtype) if case.beta is None else case.beta
        made.params = bnspec.Params(asarray(gamma), asarray(beta))
        if case.state is None:
            zeros, ones = np.zeros(case.channels, dtype), np.ones(case.channels, dtype)
            made.state = bnspec.RunningState(asarray(zeros), asarray(ones))
        else:
            made.state = bnspec.RunningState(asarray(case.state["mean"]), asarray(case.state["var"]))
        return made

    def _state(self, made: bnspec.BatchNorm) -> dict[str, Array]:
        assert made.state is not None
        return {
            name: np.asarray(self._backend.to_numpy(v)) for name, v in made.state._asdict().items() if v is not None
        }
