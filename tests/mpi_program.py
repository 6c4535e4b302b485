"""A rank's program for tests/test_mpi.py: `mpi_program.py ACT [ARGUMENT]`; the first rank prints what it found."""

import hashlib
import json
import sys
import threading

import numpy as np
from mpi4py import MPI

import bnspec
from bnspec_backends import _rounds
from bnspec_backends._mpi import MPICommunicator

RANK, SIZE = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
ACT = sys.argv[1]


def say(**values):
    if RANK == 0:
        print(json.dumps(values))


def network(comm):
    """Layers of different kinds, with a shape of samples for each."""
    options = {"ema_update": "internal", "comm": comm, "decay": 0.9}
    return [
        (bnspec.BatchNorm(1, name="plain", **options), 1),
        (bnspec.BatchNorm(1, name="ghost", virtual_batch_size=2, ghost_source="sequential", **options), 2),
        (bnspec.BatchRenorm(3.0, 5.0, axis=1, name="renorm", **options), 1),
    ]


def soak(steps):
    """Random uneven counts, some 0, ghost groups and masks: after each step the states are the same to the bit."""
    with MPICommunicator(deadline=60.0) as comm:
        layers = network(comm)
        mine, shared = np.random.default_rng((1, RANK)), np.random.default_rng(2)
        digest = hashlib.blake2b()
        for step in range(steps):
            layer, multiple = layers[step % len(layers)]
            groups = int(shared.integers(0, 4)) if multiple > 1 else None  # every rank has as many
            samples = int(mine.integers(0, 7)) if groups is None else 2 * groups
            x = mine.standard_normal((samples, 5, 3)).astype("float32") * 10.0 ** mine.integers(-3, 4)
            mask = mine.random((samples, 1, 3)) < 0.7 if step % 2 else None
            layer(x.astype("float32"), mask=mask)
            layer.backward(x.astype("float32"))
            for values in layer.state:
                digest.update(b"" if values is None else values.tobytes())
        digests = comm.all_gather(digest.digest())
        finite = all(np.isfinite(v).all() for layer, _ in layers for v in layer.state if v is not None)
        say(different=len(set(digests)), steps=steps, ranks=SIZE, finite=bool(finite))


def rounds(joined):
    """With few ranks to a round there are several rounds; the sums are exact, the order is that of the ranks."""
    _rounds.ONE_ROUND, _rounds._JOINED = 1, joined
    _rounds.plan.cache_clear()
    with MPICommunicator(deadline=30.0) as comm:
        about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
        # Not commutative: the payload is a list of ranks, with its length in front.
        payload = np.zeros(SIZE + 1)
        payload[:2] = 1, RANK

        def after(a, b):
            n, m = int(a[0]), int(b[0])
            return np.concatenate([[n + m], a[1 : n + 1], b[1 : m + 1], np.zeros(len(a) - 1 - n - m)])

        found = comm.all_reduce(payload, after, about)
        rng = np.random.default_rng(RANK)
        sums = comm.all_reduce(rng.standard_normal(1000), lambda a, b: a + b, about._replace(layer="sums"))
        parts = comm.split(RANK % 2).all_gather(bytes([RANK]))
        same = len(set(comm.all_gather(sums.tobytes())))
        say(order=found[1:].tolist(), different=same, rounds=len(comm._exchange.plan), parts=[p[0] for p in parts])


def batched():
    """Layers that share their messages give the bits that each has alone, forward and backward, and send fewer."""
    with MPICommunicator(deadline=30.0) as comm:
        x = np.random.default_rng(RANK).standard_normal((6, 5, 3)).astype("float32")
        alone, joined = network(comm), network(comm)
        ys = [layer(x) for layer, _ in alone]
        dxs = [layer.backward(y) for (layer, _), y in zip(alone, ys)]
        before = comm._exchange.sequence
        with comm.batched() as batch:
            futures = [batch.submit(layer, x) for layer, _ in joined]
        got = [future.result() for future in futures]
        with comm.batched() as batch:
            futures = [batch.submit(layer.backward, y) for (layer, _), y in zip(joined, ys)]
        grads = [future.result() for future in futures]
        sent = comm._exchange.sequence - before
        states = [
            (a is None and b is None) or a.tobytes() == b.tobytes()
            for (one, _), (two, _) in zip(alone, joined)
            for a, b in zip(one.state, two.state)
        ]
        bits = [a.tobytes() == b.tobytes() for a, b in zip([*ys, *dxs], [*got, *grads])]
        with comm.batched() as batch:  # one of them is refused on every rank; the other goes on
            bad, good = batch.submit(joined[0][0], x[0, 0]), batch.submit(joined[1][0], x)
        say(same=all(bits) and all(states), sent=sent, error=str(bad.exception()), good=list(good.result().shape))


def splits():
    """Two threads split communicators of their own at the same time; each gets the sum of its own ranks' numbers."""
    with MPICommunicator(deadline=30.0) as comm:
        tops = [comm.split(0), comm.split(0)]
        right = []

        def work(number):
            for step in range(20):
                part = tops[number].split(step)
                about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
                got = part.all_reduce(np.asarray([100.0 * number + step]), np.add, about)
                right.append(got.tolist() == [2 * (100.0 * number + step)])

        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(right=sum(right), of=len(right))


def libraries():
    """Ranks of different libraries join; each gets arrays of its own."""
    name = "torch" if RANK == 1 else "numpy"
    backend = bnspec.get_backend(name)
    with MPICommunicator(deadline=30.0) as comm:
        layer = bnspec.BatchNorm(1, comm=comm)
        x = backend.asarray(np.full((2, 3), float(RANK), "float32"))
        y = layer(x)
        texts = comm.all_gather(f"{type(y).__module__.split('.')[0]} {layer.state.mean.tolist()}".encode())
        say(found=[text.decode() for text in texts])


if __name__ == "__main__":
    globals()[ACT](*map(int, sys.argv[2:]))
