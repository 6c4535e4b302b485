"""Base class of a layer under test, whose one call is y, the update of the running state and, on request, gradients.

A subject has to answer cases; a layer has a constructor, a call and attributes. `LayerSubject` is what lies between:
its subclass makes the layer of a case and calls it, and everything else about a case is done here.
"""

import abc
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, dtype_named
from bnspec_conformance.cases.limits import choose_dtype
from bnspec_conformance.cases.scope import Scope, needs
from bnspec_conformance.subjects.channel_order import PLACES, called_with_channels
from bnspec_conformance.subjects.contract import Refused

__all__ = ["LayerSubject"]


class LayerSubject(abc.ABC):
    """A layer as a subject: `build`, `forward`, `state` and, with the profile "grad", `gradients` are to be written.

    The word *layer* below stands for whatever `build` returns; nobody else looks into it. Arrays go to the library
    through `to_library` and come back through `to_numpy`. Any exception of the library counts as a refusal where the
    specification has the call refused [BN-RUN-4], and as a failure everywhere else.

    Attributes
    ----------
    name : str
        For reports.
    scope : Scope
        Declared capabilities. The profiles that can be served here are core, running, inference, grad, jvp and, where
        `build` sees to them, mask, ghost and renorm; the batch's own statistics are not returned.
    packages : tuple of str
        Distributions whose versions identify it.
    moves_channels : {"first", "last"} or None
        Where x is brought into another order of axes before the layer gets it, and the results back: the layer has its
        channels on axis 1, or last, and is asked about others all the same. `version` says so. None, the usual,
        leaves the order alone; the scope's ``axes`` says which there are, and cases are drawn accordingly.
    one_counter : bool
        Whether one counter of updates serves all channels. Cases with several are then declined, and a counter that
        `state` returns is given to each channel.
    refusals : tuple of type
        Exceptions by which the library refuses a call, for reports to say "refused".
    arithmetic, evaluation, bound, flushes, examples, dialect
        As of `Subject`; the defaults are those of most libraries: statistics in float32, the mean in a single number.

    Examples
    --------
    A layer that weights the running mean the other way round, and the clause that the suite finds broken:

    >>> import numpy as np
    >>> from bnspec_conformance import LayerSubject, Scope
    >>> class Layer:
    ...     def __init__(self, epsilon, momentum, gamma, beta, mean, var):
    ...         self.epsilon, self.momentum, self.gamma, self.beta = epsilon, momentum, gamma, beta
    ...         self.mean, self.var = mean, var
    ...     def __call__(self, x, training):
    ...         mean, var = (x.mean(0), x.var(0)) if training else (self.mean, self.var)
    ...         if training:
    ...             self.mean = self.mean + self.momentum * (mean - self.mean)
    ...             self.var = self.var + (1 - self.momentum) * (var - self.var)
    ...         return (x - mean) / np.sqrt(var + self.epsilon) * self.gamma + self.beta
    >>> class MyLayer(LayerSubject):
    ...     name = "mine"
    ...     scope = Scope(profiles=frozenset({"core", "running", "inference"}), ndims=(2,), axes="last", world=1,
    ...                   options={"correction": (0,), "averaging": ("exponential",), "nonfinite": ("propagate",)},
    ...                   dtypes=("float32",), nonempty=("samples",), parameter_dtypes=("statistics",))
    ...     def build(self, case):
    ...         numbers = {"gamma": 1, "beta": 0} | self.parameters(case)
    ...         state = {"mean": np.float32(0), "var": np.float32(1)} | self.running_state(case)
    ...         return Layer(np.float32(case.config.epsilon), np.float32(case.config.decay), **numbers, **state)
    ...     def forward(self, layer, x, training):
    ...         return layer(x, training)
    ...     def state(self, layer):
    ...         return {"mean": layer.mean, "var": layer.var}
    >>> from bnspec_conformance.run.engine import all_checks, attempt
    >>> from bnspec_conformance.subjects import complete
    >>> from bnspec_conformance.trials.budget import Budget
    >>> subject, few = complete(MyLayer(), "mine"), Budget(6, seed=0)
    >>> [attempt(all_checks()[f"test_{name}"], subject, few).broken
    ...  for name in ("normalize::test_formula", "inference::test_formula", "running::test_exponential")]
    [(), (), ('BN-RUN-1',)]
    """

    name: str
    scope: Scope
    packages: tuple[str, ...] = ()
    moves_channels: Literal["first", "last"] | None = None
    one_counter: bool = True
    refusals: tuple[type[Exception], ...] = ()
    arithmetic: Literal["float64", "twofold", "float32"] = "float32"
    evaluation: Evaluation
    bound: Literal["strict", "plain"] = "plain"
    flushes: bool = False
    examples: int = 20
    dialect: str | None = None
    backend: None = None

    @abc.abstractmethod
    def build(self, case: Case) -> Any:
        """Return a layer that has not been called yet, for the configuration, the parameters and the state of a case.

        Parameters
        ----------
        case : Case
            ``case.config`` has epsilon, decay, scale, center and so on. `parameters` gives "gamma" and "beta", and
            `running_state` "mean" and "var", also "count" unless averaging is "exponential", all of shape (C,); it
            is empty where the layer starts as the library makes it. ``case.mode`` is "batch" in training and
            "inference" else. Arrays of the case itself may be read-only, and are not to be written to.

        Raises
        ------
        NotSupported
            For a case that turns out to be beyond the layer.
        """

    @abc.abstractmethod
    def forward(self, layer: Any, x: Any, training: bool) -> Any:
        """Call the layer and return y.

        Parameters
        ----------
        layer : Any
            Of `build`.
        x : Any
            Of `to_library`.
        training : bool
            Whether the batch normalizes and enters the running state, in place of being normalized by it.
        """

    def state(self, layer: Any) -> Mapping[str, Any]:
        """Return the running state after the call, by the keys of ``case.state``.

        Arrays may have any shape of C elements, such as (1, C, 1, 1), and a counter for all channels is one number.
        """
        raise self._unwritten("state(layer)", "running")

    def gradients(self, layer: Any, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        """Call the layer as `forward` does, and differentiate sum(dy*y) by the library's own means.

        Without `training` the running statistics are constants.

        Returns
        -------
        y : Any
        gradients : mapping of str to Any
            "x", and "gamma" and "beta" where the configuration has them.
        """
        raise self._unwritten("gradients(layer, x, dy, training)", "grad")

    def tangent(self, layer: Any, x: Any, dots: Mapping[str, Any], training: bool) -> Any:
        """Return the tangent of y along the tangents of "x", "gamma" and "beta", by forward mode."""
        raise self._unwritten("tangent(layer, x, dots, training)", "jvp")

    def to_library(self, array: Array) -> Any:
        """Return the library's array with these values; a copy, since a case's own may be read-only or in any order."""
        return np.array(array, order="C")

    def to_numpy(self, value: Any) -> Array:
        """Return a new NumPy array with these values and of this dtype."""
        return np.array(value)

    def parameters(self, case: Case) -> dict[str, Any]:
        """Return gamma and beta as the library's arrays, those that the layer has; 1 or 0 where none is given."""
        return {name: self.to_library(array) for name, array in self._parameters(case).items()}

    def running_state(self, case: Case) -> dict[str, Any]:
        """Return the running state of a case as the library's arrays; empty where the case has none."""
        return {name: self.to_library(array) for name, array in (case.state or {}).items()}

    def version(self) -> str:
        """Return the packages with their versions, and whether channels are moved."""
        said = ", ".join(f"{package} {version(package)}" for package in self.packages) or self.name
        return said + (f", channels moved to {PLACES[self.moves_channels]}" if self.moves_channels else "")

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason; besides, one counter may serve all channels."""
        counts = (case.state or {}).get("count")
        if self.one_counter and counts is not None and np.unique(counts).size > 1:
            return "it has one counter for all channels"
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case on a layer of its own, and on another one where tangents are asked for."""
        if self.moves_channels is None:
            return Outcome((self._called(case),))
        return Outcome((called_with_channels(self.moves_channels, self._called, case),))

    def _called(self, case: Case) -> RankOutcome:
        rank, training = case.ranks[0], case.mode == "batch"
        found: dict[str, Any] = {}
        try:
            layer, x = self.build(case), self.to_library(rank.x)
            if rank.dy is None:
                found["y"] = self.forward(layer, x, training)
            else:
                found["y"], gradients = self.gradients(layer, x, self.to_library(rank.dy), training)
                found |= self._named(gradients)
            state = self.state(layer) if "running" in needs(case) else None
            if case.has_jvp:
                dots = {name: self.to_library(dot) for name, dot in self._dots(case).items()}
                found["ydot"] = self.tangent(self.build(case), self.to_library(rank.x), dots, training)
        except NotImplementedError:  # a method that is to be written refuses nothing, though it is a RuntimeError
            raise
        except self.refusals as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        results = {name: self.to_numpy(value) for name, value in found.items() if value is not None}
        results |= {name: self._per_channel(results[name], case) for name in ("dgamma", "dbeta") if name in results}
        kept = None if state is None else {k: self._per_channel(self.to_numpy(v), case) for k, v in state.items()}
        return RankOutcome(state=kept, **results)

    def _named(self, gradients: Mapping[str, Any]) -> dict[str, Any]:
        """Return gradients under the names of the outcome."""
        unknown = sorted(set(gradients) - {"x", "gamma", "beta"})
        if unknown:
            raise TypeError(f"gradients() returned {', '.join(unknown)}; expected some of x, gamma, beta. Rename them.")
        return {f"d{name}": value for name, value in gradients.items()}

    def _parameters(self, case: Case) -> dict[str, Array]:
        kept = dtype_named(choose_dtype(case.ranks[0].x.dtype.name, self.scope.parameter_dtypes))
        exists = {"gamma": case.config.scale, "beta": case.config.center}
        found: dict[str, Array] = {}
        for name, given, usual in (("gamma", case.gamma, 1), ("beta", case.beta, 0)):
            if exists[name]:
                found[name] = np.full(case.channels, usual, kept) if given is None else given
        return found

    def _dots(self, case: Case) -> dict[str, Array]:
        """Return the tangents of x and of the parameters that exist, 0 where the case has none."""
        rank, given = case.ranks[0], {"gamma": case.gamma_dot, "beta": case.beta_dot}
        dots = {"x": np.zeros_like(rank.x) if rank.xdot is None else rank.xdot}
        for name, value in self._parameters(case).items():
            dot = given[name]
            dots[name] = np.zeros_like(value) if dot is None else dot.astype(value.dtype)
        return dots

    def _per_channel(self, values: Array, case: Case) -> Array:
        """Return one number for each channel, in whatever shape the layer keeps them."""
        if values.size == 1 and self.one_counter and values.dtype.kind in "iu":
            return np.full(case.channels, values.reshape(()))
        return values.reshape(case.channels) if values.size == case.channels else values

    def _unwritten(self, method: str, profile: str) -> NotImplementedError:
        words = f"write {method} in {type(self).__name__}, or leave {profile!r} out of the profiles of its scope"
        return NotImplementedError(words)
