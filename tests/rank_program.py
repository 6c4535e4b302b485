"""A rank's program for test_mpi.py and test_nccl.py: `rank_program.py ACT [ARGUMENT]`; the first rank prints."""

import hashlib
import json
import os
import sys
import threading
import time

import numpy as np
from array_api_compat import array_namespace
from ranks import RANK, SIZE, Communicator, gathered, own_stream, put, rounds_of, sent_by, take

import bnspec
from bnspec_backends._mpi import MPICommunicator

ACT = sys.argv[1]


def say(**values):
    if RANK == 0:
        print(json.dumps(values))


def network(comm):
    """Layers of different kinds, with a shape of samples for each."""
    options = {"ema_update": "internal", "comm": comm, "decay": 0.9}
    return [
        (bnspec.BatchNorm(axis=1, name="plain", **options), 1),
        (bnspec.BatchNorm(axis=1, name="ghost", virtual_batch_size=2, ghost_source="sequential", **options), 2),
        (bnspec.BatchRenorm(3.0, 5.0, axis=1, name="renorm", **options), 1),
    ]


def soak(steps):
    """Random uneven counts, some 0, ghost groups and masks: after each step the states are the same to the bit."""
    with Communicator(deadline=60.0) as comm:
        layers = network(comm)
        mine, shared = np.random.default_rng((1, RANK)), np.random.default_rng(2)
        digest = hashlib.blake2b()
        for step in range(steps):
            layer, multiple = layers[step % len(layers)]
            groups = int(shared.integers(0, 4)) if multiple > 1 else None  # every rank has as many
            samples = int(mine.integers(0, 7)) if groups is None else 2 * groups
            x = mine.standard_normal((samples, 5, 3)).astype("float32") * 10.0 ** mine.integers(-3, 4)
            mask = mine.random((samples, 1, 3)) < 0.7 if step % 2 else None
            x = put(x.astype("float32"))
            layer(x, mask=None if mask is None else put(mask))
            layer.backward(x)
            for values in layer.state:
                digest.update(b"" if values is None else take(values).tobytes())
        digests = gathered(digest.digest())
        finite = all(np.isfinite(take(v)).all() for layer, _ in layers for v in layer.state if v is not None)
        say(different=len(set(digests)), steps=steps, ranks=SIZE, finite=bool(finite))


def rounds():
    """With few ranks to a round there are several rounds; the sums are exact, the order is that of the ranks."""
    with Communicator(deadline=30.0) as comm:
        about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")

        def after(a, b):  # not commutative: a number's digits are its ranks
            return array_namespace(a).stack([a[0] * b[0], a[1] * b[0] + b[1]])

        found = take(comm.all_reduce(put(np.asarray([10.0, 1.0 + RANK])), after, about))
        rng = np.random.default_rng(RANK)
        numbers = put(rng.standard_normal(1000))
        sums = take(comm.all_reduce(numbers, lambda a, b: a + b, about._replace(layer="sums")))
        part = comm.split(RANK % 2)
        mine = take(part.all_reduce(put(np.asarray([10.0, 1.0 + RANK])), after, about))
        say(
            order=int(found[1]),
            different=len(set(gathered(sums.tobytes()))),
            rounds=len(rounds_of(comm)),
            parts=[int(each) for each in gathered(float(mine[1]))],
        )


def batched():
    """Layers that share their messages give the bits that each has alone, forward and backward, and send fewer."""
    with Communicator(deadline=30.0) as comm:
        x = put(np.random.default_rng(RANK).standard_normal((6, 5, 3)).astype("float32"))
        alone, joined = network(comm), network(comm)
        ys = [layer(x) for layer, _ in alone]
        dxs = [layer.backward(y) for (layer, _), y in zip(alone, ys)]
        before = sent_by(comm)
        with comm.batched() as batch:
            futures = [batch.submit(layer, x) for layer, _ in joined]
        got = [future.result() for future in futures]
        with comm.batched() as batch:
            futures = [batch.submit(layer.backward, y) for (layer, _), y in zip(joined, ys)]
        grads = [future.result() for future in futures]
        sent = sent_by(comm) - before
        states = [
            (a is None and b is None) or take(a).tobytes() == take(b).tobytes()
            for (one, _), (two, _) in zip(alone, joined)
            for a, b in zip(one.state, two.state)
        ]
        bits = [take(a).tobytes() == take(b).tobytes() for a, b in zip([*ys, *dxs], [*got, *grads])]
        with comm.batched() as batch:  # one of them is refused on every rank; the other goes on
            bad, good = batch.submit(joined[0][0], x[0, 0]), batch.submit(joined[1][0], x)
        say(same=all(bits) and all(states), sent=sent, error=str(bad.exception()), good=list(good.result().shape))


def splits():
    """Two threads split communicators of their own at the same time; each gets the sum of its own ranks' numbers."""
    with Communicator(deadline=30.0) as comm:
        tops = [comm.split(0), comm.split(0)]
        right = []

        def work(number):
            with own_stream():
                for step in range(20):
                    part = tops[number].split(step)
                    about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
                    number_and_step = put(np.asarray([100.0 * number + step]))
                    got = take(part.all_reduce(number_and_step, lambda a, b: a + b, about))
                    right.append(got.tolist() == [2 * (100.0 * number + step)])

        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(right=sum(right), of=len(right))


def beside_mpi():
    """The numbers of a training step are those that MPI gives, to the bit, and the host waits for no device."""
    from cupy._stream import synchronizations

    x = np.random.default_rng(RANK).standard_normal((RANK + 2, 5, 3)).astype("float32")
    with Communicator(deadline=30.0) as comm, MPICommunicator(deadline=30.0) as mpi:
        waits, same = 0, True
        for (layer, multiple), (plain, _) in zip(network(comm), network(mpi)):
            batch = x[: len(x) // multiple * multiple] if multiple == 1 else x[:2]
            for _ in range(3):
                device = put(batch)
                layer(device)  # a layer is compared once, for which its host waits
                layer.backward(device)
                before = synchronizations()
                y, dx = layer(device), layer.backward(device)
                waits += synchronizations() - before
                plain(batch), plain.backward(batch)
                pairs = [(y, plain(batch)), (dx, plain.backward(batch)), *zip(layer.state, plain.state)]
                same &= all(take(a).tobytes() == b.tobytes() for a, b in pairs if b is not None)
        say(same=all(gathered(bool(same))), waits=sum(gathered(waits)))


def captures():
    """Steps go on while streams are captured in the mode that minds queries by others, which is torch's default."""
    import cupy

    spoiled = 0
    with Communicator(deadline=30.0) as comm:
        layer, x = bnspec.BatchNorm(axis=1, comm=comm), put(np.ones((4, 3), "float32"))
        layer(x)
        for _ in range(3):
            stream = cupy.cuda.Stream(non_blocking=True)
            stream.begin_capture(0)
            layer(x)
            time.sleep(0.2)  # the thread that looks after collectives looks several times
            layer(x)
            try:
                stream.end_capture()
            except cupy.cuda.runtime.CUDARuntimeError:
                spoiled += 1
    say(spoiled=sum(gathered(spoiled)))


def parts():
    """Statistics of all and of every other rank; the names say who of them is there."""
    with Communicator(deadline=30.0) as comm:
        x = put(np.full((2, 3), float(RANK), "float32"))
        whole = bnspec.BatchNorm(axis=1, comm=comm)
        whole(x)
        part = comm.split(RANK % 2)
        half = bnspec.BatchNorm(axis=1, comm=part)
        half(x)
        means = [round(10 * float(take(each.state.mean)[0]), 5) for each in (whole, half)]
        say(means=gathered(means), sizes=gathered([comm.size, part.size]))


def refused():
    """What a device cannot send is refused before anything is sent, and the communicator goes on."""
    import cupy

    told = []
    about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
    with Communicator(deadline=30.0) as comm:

        def ask(payload, context=None):
            try:
                with context or own_stream():
                    comm.all_reduce(payload, lambda a, b: a + b, about)
            except (TypeError, ValueError) as error:
                told.append(f"{type(error).__name__}: {error}")

        ask(np.ones(2))
        ask(put(np.ones(2, "int64")))
        with cupy.cuda.Device(RANK + 1):
            elsewhere = put(np.ones(2))
        ask(elsewhere)
        ask(put(np.ones(2)), cupy.cuda.Device(RANK + 1))
        captured = cupy.cuda.Stream(non_blocking=True)
        captured.begin_capture()
        ask(put(np.ones(2)), captured)
        captured.end_capture()
        for color in (1.5, True):
            try:
                comm.split(color)
            except TypeError as error:
                told.append(f"{type(error).__name__}: {error}")
        total = take(comm.all_reduce(put(np.ones(2)), lambda a, b: a + b, about))
        sent = comm.sequence
    try:
        comm.split(0)
    except bnspec.CommunicatorError as error:
        told.append(f"{type(error).__name__}: {error}")
    say(told=told, total=total.tolist(), sent=sent)


def shared():
    """Two ranks on one device."""
    from bnspec_backends._nccl import NCCLCommunicator

    with NCCLCommunicator(deadline=30.0, share_device=True) as comm:
        about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
        say(total=take(comm.all_reduce(put(np.ones(2)), lambda a, b: a + b, about)).tolist())


def libraries():
    """Ranks of different libraries join; each gets arrays of its own."""
    name = os.environ.get("BNSPEC_TEST_LIBRARY", "torch") if RANK == 1 else "numpy"
    backend = bnspec.get_backend(name)
    with MPICommunicator(deadline=30.0) as comm:
        layer = bnspec.BatchNorm(axis=1, comm=comm)
        x = backend.asarray(np.full((2, 3), float(RANK), "float32"))
        y = layer(x)
        texts = comm.all_gather(f"{type(y).__module__.split('.')[0]} {layer.state.mean.tolist()}".encode())
        say(found=[text.decode() for text in texts])


if __name__ == "__main__":
    globals()[ACT](*map(int, sys.argv[2:]))
