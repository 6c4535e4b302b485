"""Rank under observation: its communicator records every message and can be late."""

import time
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Array, Case

__all__ = ["RecordingCommunicator", "steps"]


class RecordingCommunicator:
    """Communicator that records its messages and when the last collective began; it sends each after a delay."""

    def __init__(self, comm: bnspec.Communicator, delay: float = 0.0) -> None:
        self.rank, self.size = comm.rank, comm.size
        self.messages: list[tuple[str, str]] = []
        self.entered = time.perf_counter()  # what a rank does before its collective is not waiting
        self._comm, self._delay = comm, delay

    def all_reduce(self, payload: Any, combine: Any, signature: bnspec.Signature) -> Any:
        """Record operation and layer, wait, and pass the payload on."""
        self.messages.append((signature.operation, signature.layer))
        time.sleep(self._delay)
        self.entered = time.perf_counter()
        return self._comm.all_reduce(payload, combine, signature)


def steps(backend: Any, case: Case, comm: Any, name: str = "layer") -> dict[str, Array]:
    """Run a rank's forward pass, vjp, jvp and update; return the joined numbers and the results that depend on them."""
    number, put = comm.rank, backend.asarray
    rank = case.ranks[number]
    params = bnspec.Params(*(None if v is None else put(v) for v in (case.gamma, case.beta)))
    state = None if case.state is None else bnspec.RunningState(**{k: put(v) for k, v in case.state.items()})
    mask = None if rank.mask is None else put(rank.mask)
    more = {k: put(v[number]) for k, v in (("dmean", case.dmean), ("dvar", case.dvar)) if v is not None}
    y, stats, saved = bnspec.batch_norm(put(rank.x), params, case.config, state=state, mask=mask, comm=comm, name=name)
    grads = bnspec.batch_norm_vjp(put(rank.dy), saved, comm=comm, **more)
    tangents = bnspec.batch_norm_tangents(put(rank.xdot), saved, comm=comm)
    found = {"y": y, "mean": stats.mean, "low": stats.mean_low, "m2": stats.m2, "dx": grads.x,
             "mean_dot": tangents.mean, "var_dot": tangents.var}  # fmt: skip
    if state is not None:
        new = bnspec.update_running(state, stats, case.config, name=name)
        found |= {k: v for k, v in new._asdict().items() if v is not None}
    return {k: np.asarray(backend.to_numpy(v)) for k, v in found.items()}
