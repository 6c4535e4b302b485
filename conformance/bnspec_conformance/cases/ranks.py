"""Ranks under observation: a communicator that notes every message and can be late, and one batch made of theirs."""

import dataclasses
import time
from typing import Any

import numpy as np
import numpy.typing as npt

import bnspec
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs

__all__ = ["Observed", "concatenated", "shared", "steps"]

Indices = npt.NDArray[np.int64]


class Observed:
    """Another communicator that notes its messages and when it entered the last; each is sent after a delay."""

    def __init__(self, comm: bnspec.Communicator, delay: float = 0.0) -> None:
        self.rank, self.size = comm.rank, comm.size
        self.messages: list[tuple[str, str]] = []
        self.entered = time.perf_counter()  # what a rank does before its collective is not waiting
        self._comm, self._delay = comm, delay

    def all_reduce(self, payload: Any, combine: Any, signature: bnspec.Signature) -> Any:
        """Note operation and layer, wait, and pass it on."""
        self.messages.append((signature.operation, signature.layer))
        time.sleep(self._delay)
        self.entered = time.perf_counter()
        return self._comm.all_reduce(payload, combine, signature)


def steps(backend: Any, case: Case, comm: Any, name: str = "layer") -> dict[str, Array]:
    """A rank's forward pass, vjp, jvp and update; the joined numbers and what follows from them."""
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


def concatenated(case: Case) -> tuple[Case, list[Indices]]:
    """One process that has the ranks' samples, group by group, and where each rank's samples are in its batch."""
    config, size = case.config, case.config.virtual_batch_size
    order: list[tuple[int, int]] = []
    for g in range(case.groups):
        for r, rank in enumerate(case.ranks):
            n = rank.x.shape[0]
            order += [(r, i) for i in (range(n) if size is None else range(g * size, (g + 1) * size))]
    places = [np.asarray([k for k, (s, _) in enumerate(order) if s == r], np.int64) for r in range(len(case.ranks))]

    def join(arrays: list[Array | None]) -> Array | None:
        present = [a for a in arrays if a is not None]
        if len(present) < len(arrays):
            return None
        whole = np.empty((len(order), *present[0].shape[1:]), present[0].dtype)
        for where, array in zip(places, present, strict=True):
            whole[where] = array
        return whole

    masks = []
    for rank in case.ranks:
        full = tuple(1 if a == config.axis else n for a, n in enumerate(rank.x.shape))
        masks.append(np.broadcast_to(np.ones((1,) * len(full), bool) if rank.mask is None else rank.mask, full))
    x = join([r.x for r in case.ranks])
    assert x is not None
    whole = RankInputs(
        x,
        join([r.dy for r in case.ranks]),
        None if all(r.mask is None for r in case.ranks) else join(list(masks)),
        join([r.xdot for r in case.ranks]),
    )
    if size is not None:
        config = dataclasses.replace(config, virtual_batch_size=size * len(case.ranks))
    dmean, dvar = (None if v is None else (np.sum(np.asarray(v, np.float64), axis=0),) for v in (case.dmean, case.dvar))
    return dataclasses.replace(case, config=config, ranks=(whole,), dmean=dmean, dvar=dvar), places


def shared(one: Outcome, places: list[Indices]) -> Outcome:
    """A single process's outcome as each rank should hold it; parameter gradients, which are local, left out."""
    (whole,) = one.ranks

    def part(values: Any, place: Indices) -> Any:
        return None if values is None else values[place]

    return Outcome(
        tuple(
            dataclasses.replace(
                whole, dgamma=None, dbeta=None, y=part(whole.y, p), dx=part(whole.dx, p), ydot=part(whole.ydot, p)
            )
            for p in places
        )
    )
