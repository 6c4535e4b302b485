"""bnspec's own backends as subjects: the specification's functions on the arrays of one library."""

import dataclasses
from typing import Any, Literal

import numpy as np

import bnspec
from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.subjects.own.rank_pool import RankPool, ThreadRankPool

__all__ = ["Ours", "asked_count", "cpu_evaluation", "cupy", "jax", "numpy", "strict", "torch"]


#: What compiled kernels declare: they make y and dx of 16 bits in float32.
_OF_16_BITS: Evaluation = {name: {"float16": "float32", "bfloat16": "float32"} for name in ("y", "dx")}


def cpu_evaluation() -> Evaluation:
    """Return what the kernels in use for NumPy arrays, and torch's tensors on the CPU, evaluate y and dx in."""
    from bnspec_backends import cpu

    return _OF_16_BITS if cpu.in_use() == "compiled" else {}


@dataclasses.dataclass
class Ours:
    """One backend; where a case has several ranks, its `pool` runs them."""

    name: str
    backend: Any
    arithmetic: Literal["float64", "twofold", "float32"] = "float64"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)
    flushes: bool = False
    examples: int = 40
    bound: Literal["strict", "plain"] = "strict"
    dialect: str | None = "bnspec"
    pool: RankPool = dataclasses.field(default_factory=ThreadRankPool)
    kernels: Any = None  # that serve NumPy arrays, in place of those in use
    same_bits: bool = True

    @property
    def scope(self) -> Scope:
        """Everything, in the dtypes that the backend takes."""
        return Scope(dtypes=tuple(self.backend.dtypes()), same_bits=self.same_bits)

    def version(self) -> str:
        """Return the library and its version."""
        return f"bnspec {bnspec.__version__} on {self.backend.name} {self.backend.version()}"

    def supports(self, case: Case) -> str | None:
        """Return the scope's reason: every case of a dtype that the library has is supported."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Run the case, on as many ranks as it has."""
        if self.kernels is None:
            return self._run(case)
        with bnspec.use_kernels("numpy", self.kernels):
            return self._run(case)

    def _run(self, case: Case) -> Outcome:
        if len(case.ranks) == 1:
            return Outcome((self._rank(case, case.ranks[0], 0, None),))

        def one(comm: bnspec.Communicator) -> RankOutcome:
            return self._rank(case, case.ranks[comm.rank], comm.rank, comm)

        return Outcome(tuple(self.pool.run(len(case.ranks), one, deadline=60.0)))

    def _rank(self, case: Case, rank: RankInputs, number: int, comm: Any) -> RankOutcome:
        put = self._put
        params = bnspec.Params(
            put(_or_default(case.gamma, 1.0, case)) if case.config.scale else None,
            put(_or_default(case.beta, 0.0, case)) if case.config.center else None,
        )
        state = None
        if case.state is not None:
            state = bnspec.RunningState(**{k: put(v) for k, v in case.state.items()})
        dots = (
            put(case.gamma_dot) if case.config.scale else None,
            put(case.beta_dot) if case.config.center else None,
        )
        more = (
            None if case.dmean is None else put(case.dmean[number]),
            None if case.dvar is None else put(case.dvar[number]),
        )
        given = (put(rank.x), put(rank.dy), put(rank.mask), put(rank.xdot))
        with np.errstate(all="ignore"):  # per thread, so here: overflow and NaN are part of many cases
            result = _run(case.config, case.mode, case.update, comm, *given, params, state, dots, more)
        self.backend.synchronize()
        take = self._take
        count = asked_count(take(result.pop("count")), case)
        kept: Any = None
        if result["state"] is not None:
            kept = {k: take(v) for k, v in result["state"]._asdict().items() if v is not None}
        return RankOutcome(state=kept, count=count, **{k: take(v) for k, v in result.items() if k != "state"})

    def _put(self, values: Array | None) -> Any:
        return None if values is None else self.backend.asarray(values)

    def _take(self, values: Any) -> Array | None:
        return None if values is None else np.asarray(self.backend.to_numpy(values))


def _run(
    config: bnspec.BatchNormConfig, mode: str, update: bool, comm: Any, x: Any, dy: Any, mask: Any, xdot: Any,
    params: bnspec.Params, state: Any, dots: tuple[Any, Any], more: tuple[Any, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything a case asks for, with bnspec's functional interface."""
    result: dict[str, Any] = dict.fromkeys(RankOutcome.__dataclass_fields__)
    if mode == "inference":
        result["y"], saved = bnspec.batch_norm_inference(x, params, state, config)
    else:
        result["y"], stats, saved = bnspec.batch_norm(x, params, config, state=state, mask=mask, comm=comm)
        mean = stats.mean + stats.mean_low
        rest = (stats.mean - mean) + stats.mean_low  # what one number misses
        result |= {"count": stats.count, "mean": mean, "mean_low": rest, "var": stats.var}
        if state is not None and update:
            result["state"] = bnspec.update_running(state, stats, config)
    if dy is not None:
        grads = bnspec.batch_norm_vjp(dy, saved, comm=comm, dmean=more[0], dvar=more[1])
        result |= {"dx": grads.x, "dgamma": grads.gamma, "dbeta": grads.beta}
    if xdot is not None:
        tangents = bnspec.batch_norm_tangents(xdot, saved, *dots, comm=comm)
        result |= {"ydot": tangents.y, "mean_dot": tangents.mean, "var_dot": tangents.var}
    return result


def asked_count(count: Array | None, case: Case) -> Array | None:
    """Return counts in the shape that a case asks for; those of ranks are always (G, C)."""
    if count is None or count.ndim == 1 or case.counts_channels:
        return count
    if not count.shape[1]:
        return None
    return count[:, 0] if bool((count == count[:, :1]).all()) else count


def _or_default(values: Array | None, default: float, case: Case) -> Array:
    if values is not None:
        return values
    wide = case.ranks[0].x.dtype == np.float64
    return np.full(case.channels, default, "float64" if wide else "float32")


def numpy() -> Ours:
    """bnspec on NumPy, by the kernels in use: compiled where numba is installed."""
    return Ours("numpy", bnspec.get_backend("numpy"), evaluation=cpu_evaluation())


def numpy_compiled() -> Ours:
    """bnspec on NumPy by compiled kernels."""
    return _numpy_with("compiled")


def numpy_blocked() -> Ours:
    """bnspec on NumPy block by block, as without numba."""
    return _numpy_with("blocked")


def numpy_specification() -> Ours:
    """bnspec on NumPy by the specification's own formulas."""
    return _numpy_with("specification")


def _numpy_with(kernels: str) -> Ours:
    from bnspec_backends import cpu

    evaluation = _OF_16_BITS if kernels == "compiled" else {}
    made = cpu.make(kernels)
    return Ours(f"numpy-{kernels}", bnspec.get_backend("numpy"), evaluation=evaluation, examples=20, kernels=made)


def strict() -> Ours:
    """bnspec on array-api-strict with every flag at its strictest: no call beyond the standard."""
    import array_api_strict

    array_api_strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)
    return Ours("strict", bnspec.get_backend("strict"), examples=20)


def torch() -> Ours:
    """bnspec on torch tensors of the default device."""
    return Ours("torch", bnspec.get_backend("torch"), evaluation=cpu_evaluation(), examples=20)


def jax() -> Ours:
    """bnspec on JAX arrays, eager, in whatever precision JAX is configured for."""
    backend = bnspec.get_backend("jax")
    wide = "float64" in backend.dtypes()
    # XLA flushes subnormal numbers on the CPU; every new shape compiles, so there are fewer examples.
    return Ours("jax", backend, "float64" if wide else "float32", flushes=True, examples=6, same_bits=False)


def cupy() -> Ours:
    """bnspec on CuPy arrays of the current CUDA device."""
    backend = bnspec.get_backend("cupy")
    if not backend.devices():
        raise ImportError("CuPy is installed, but there is no CUDA device")
    from bnspec_backends import cuda

    evaluation = _OF_16_BITS if cuda.in_use() == "compiled" else {}
    # CuPy compiles what it does with -ftz=true: also a conversion from float32 to float64 flushes subnormal numbers.
    return Ours("cupy", backend, evaluation=evaluation, flushes=True, examples=20)
