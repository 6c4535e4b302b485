"""A rank's program for test_mpi.py, test_nccl.py and test_torch_groups.py; the first rank prints.

`rank_program.py ACT [ARGUMENT]`, or several acts one after the other: `rank_program.py ACT:ARGUMENT,ACT`.
"""

import atexit
import datetime
import gc
import hashlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from rank_communicators import KIND, RANK, SIZE, Communicator, gathered, own_stream, put, rounds_of, take

import bnspec
from bnspec_backends.ranks import threads

if KIND == "torch":
    MPICommunicator = Communicator
else:
    from mpi4py import MPI

    from bnspec_backends.ranks.mpi import MPICommunicator, exit

ACT = sys.argv[1]


def say(**values: Any) -> None:
    if RANK == 0:
        print(json.dumps(values))


def network(comm: Any) -> list[Any]:
    """Layers of different kinds, with a shape of samples for each."""
    options = {"ema_update": "internal", "comm": comm, "decay": 0.9}
    return [
        (bnspec.BatchNorm(axis=1, name="plain", **options), 1),
        (bnspec.BatchNorm(axis=1, name="ghost", virtual_batch_size=2, ghost_source="sequential", **options), 2),
        (bnspec.BatchRenorm(3.0, 5.0, axis=1, name="renorm", **options), 1),
    ]


def soak(steps: Any) -> None:
    """Random uneven counts, some 0, ghost groups and masks: after each step the states are the same to the bit.

    In float64, of which a sum that is taken in another order changes the last bits; a state of float32 hides them.
    """
    with Communicator(deadline=60.0) as comm:
        layers = network(comm)
        mine, shared = np.random.default_rng((1, RANK)), np.random.default_rng(2)
        digest = hashlib.blake2b()
        for step in range(steps):
            layer, multiple = layers[step % len(layers)]
            groups = int(shared.integers(0, 4)) if multiple > 1 else None  # every rank has as many
            samples = int(mine.integers(0, 7)) if groups is None else 2 * groups
            x = put(mine.standard_normal((samples, 5, 3)) * 10.0 ** mine.integers(-3, 4))
            mask = mine.random((samples, 1, 3)) < 0.7 if step % 2 else None
            layer(x, mask=None if mask is None else put(mask))
            layer.backward(x)
            for values in layer.state:
                digest.update(b"" if values is None else take(values).tobytes())
        digests = gathered(digest.digest())
        finite = all(np.isfinite(take(v)).all() for layer, _ in layers for v in layer.state if v is not None)
        say(different=len(set(digests)), steps=steps, ranks=SIZE, finite=bool(finite))


def rounds() -> None:
    """With few ranks to a round there are several rounds; the sums are exact, the order is that of the ranks."""
    with Communicator(deadline=30.0) as comm:
        about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")

        def after(a: Any, b: Any) -> Any:  # not commutative: a number's digits are its ranks
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


def splits() -> None:
    """Two threads split communicators of their own at the same time; each gets the sum of its own ranks' numbers."""
    with Communicator(deadline=30.0) as comm:
        tops = [comm.split(0), comm.split(0)]
        right = []

        def work(number: Any) -> None:
            with own_stream():
                for step in range(20):
                    part = tops[number].split(step)
                    about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
                    number_and_step = put(np.asarray([100.0 * number + step]))
                    got = take(part.all_reduce(number_and_step, lambda a, b: a + b, about))
                    right.append(got.tolist() == [2 * (100.0 * number + step)])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (0, 1)))
        say(right=sum(right), of=len(right))


def beside_mpi() -> None:
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


def captures() -> None:
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


def parts() -> None:
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


def refused() -> None:
    """What a device cannot send is refused before anything is sent, and the communicator goes on."""
    import cupy

    told = []
    about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
    with Communicator(deadline=30.0) as comm:

        def ask(payload: Any, context: Any = None) -> None:
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


def libraries() -> None:
    """Ranks of different libraries join; each gets arrays of its own."""
    name = os.environ.get("BNSPEC_TEST_LIBRARY", "torch") if RANK == 1 else "numpy"
    backend = bnspec.get_backend(name)
    with MPICommunicator(deadline=30.0) as comm:
        layer = bnspec.BatchNorm(axis=1, comm=comm)
        x = backend.asarray(np.full((2, 3), float(RANK), "float32"))
        y = layer(x)
        texts = comm.all_gather(f"{type(y).__module__.split('.')[0]} {layer.state.mean.tolist()}".encode())
        say(found=[text.decode() for text in texts])


def refused_by(call: Any) -> str:
    """The text of the refusal that a call ends in."""
    try:
        call()
    except bnspec.CommunicatorError as error:
        return str(error)
    return "not refused"


def forked(work: Any, end: Any = os._exit) -> Any:
    """What a forked child says, and how it ends; it ends at once."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 9
        try:
            os.write(writing, json.dumps(work()).encode())
            gc.collect()
            status = 0
        finally:
            end(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if status == 0 else f"exit {status}"


def forks() -> None:
    """A child has no place among the ranks, whatever it does; they go on as if it were not there."""
    x = put(np.full((2, 3), float(RANK), "float32"))
    lost = Communicator(deadline=30.0)
    with Communicator(deadline=30.0) as comm:
        part, layer, named = (
            comm.split(0),
            bnspec.BatchNorm(axis=1, comm=comm),
            bnspec.BatchNorm(axis=1, sync_statistics=KIND),
        )
        layer(x), named(x)

        def child() -> Any:
            nonlocal lost
            about = bnspec.Signature("moments", "bn", 1, 1, "float32", "{}")
            told = [
                refused_by(lambda: layer(x)),
                refused_by(lambda: named(x)),
                refused_by(lambda: part.all_reduce(x, lambda a, b: a + b, about)),
                refused_by(lambda: comm.split(0)),
                refused_by(lambda: Communicator(deadline=30.0)),
            ]
            comm.close()
            part.close(OSError("in the child"))
            del lost
            return told

        told = forked(child) if RANK == 0 else []
        if RANK == 0 and (KIND == "torch" or MPI.VERSION >= 4):
            if KIND != "torch":  # there a child that ends by sys.exit waits for threads of torch's own group
                assert forked(lambda: "done", sys.exit) == "done"
            ended = multiprocessing.get_context("fork").Process(target=child)
            ended.start()
            ended.join(10)
            assert ended.exitcode == 0
        before = take(layer.state.mean).tolist()
        layer(x), named(x)
        total = take(part.all_reduce(put(np.ones(2)), lambda a, b: a + b, SUM)).tolist()
        lost.all_reduce(put(np.ones(2)), lambda a, b: a + b, SUM)
    say(told=told, total=total, went_on=before != take(layer.state.mean).tolist())


SUM = bnspec.Signature("moments", "sum", 1, 1, "float32", "{}")


def many(number: Any) -> None:
    """Communicators in all the ways in which one can be left; the program ends as soon as with one."""
    kept = [Communicator(deadline=30.0) for _ in range(number)]
    whole = kept[0]
    kept += [whole.split(i) for i in range(number // 5)]
    kept[0].all_reduce(put(np.ones(2)), lambda a, b: a + b, SUM)
    del kept[1::2]
    try:
        kept[1].all_reduce(put(np.ones(2 + RANK)), lambda a, b: a + b, SUM)
    except bnspec.CommunicatorError:
        pass
    begun = time.perf_counter()
    atexit.unregister(exit._leave)
    atexit.register(lambda: say(seconds=time.perf_counter() - begun))
    atexit.register(exit._leave)
    globals()["KEPT"] = kept


def used_again(number: Any) -> None:
    """What is opened and closed over and over takes no more of MPI than once."""
    x = np.ones((2, 3), "float32")
    with MPICommunicator(deadline=30.0) as whole:
        for i in range(number):
            comm = MPICommunicator(deadline=30.0)
            part = whole.split(0)
            if i % 10 == 0:
                bnspec.BatchNorm(axis=1, comm=comm)(x), bnspec.BatchNorm(axis=1, comm=part)(x)
            if i % 2:
                comm.close()
                part.close()
            elif i % 20 == 0:  # the ranks differ
                told = refused_by(lambda c=comm: bnspec.BatchNorm(axis=1, comm=c, name=f"of rank {RANK}")(x))
                assert "differ in layer" in told, told
    for _ in range(number // 10):
        own = MPI.COMM_WORLD.Split(0)
        with MPICommunicator(own, deadline=30.0) as comm:
            bnspec.BatchNorm(axis=1, comm=comm)(x)
        own.Free()
    MPI.COMM_WORLD.Barrier()
    MPICommunicator(deadline=30.0).close()
    groups = sum(len(peers.groups) for peers in exit.ENDING.peers)
    say(peers=len(exit.ENDING.peers), groups=groups, open=len(exit.ENDING.exchanges))


def finalized() -> None:
    """MPI's end, by the program itself, is the end of communicators; what needs them is refused."""
    kept, dropped = Communicator(deadline=30.0), Communicator(deadline=30.0)
    x = put(np.ones((2, 3), "float32"))
    layer, named = bnspec.BatchNorm(axis=1, comm=kept), bnspec.BatchNorm(axis=1, sync_statistics=KIND)
    layer(x), named(x)
    MPI.Finalize()
    told = [refused_by(lambda: layer(x)), refused_by(lambda: named(x)), refused_by(lambda: kept.split(0))]
    told.append(refused_by(lambda: Communicator(deadline=30.0)))
    kept.close()
    del dropped
    gc.collect()
    y = take(bnspec.BatchNorm(axis=1, comm=kept, training=False)(x))  # which asks nobody
    say(told=told, same=len({tuple(row) for row in y.tolist()}))


def beside_threads() -> None:
    """Uneven and empty shards of torch's tensors: y, dx and states are to the bit what threads get of the same."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    shards = [rng.standard_normal((samples, 5, 3)) for samples in ([4, 0, 2][:SIZE])]

    def step(comm: Any, x: Any) -> list[bytes]:
        bits = []
        for layer, _ in (network(comm)[0], network(comm)[2]):
            for _ in range(2):
                each = torch.from_numpy(x)
                y, dx = layer(each), layer.backward(each)
                state = [values for values in layer.state if values is not None]
                bits += [values.numpy().tobytes() for values in (y, dx, *state)]
        return bits

    with Communicator(deadline=60.0) as comm:
        mine = step(comm, shards[RANK])
    alike = mine == threads.run(SIZE, step, args=shards)[RANK]
    say(same=gathered(alike), tensors=len(mine))


def two_at_once() -> None:
    """Two communicators of the same ranks, used in another order from time to time; and the caller's own messages."""
    import torch
    import torch.distributed as dist

    with Communicator(deadline=30.0) as one, Communicator(deadline=30.0) as other:
        found = []
        for step in range(20):
            pending = dist.all_reduce(torch.ones(3), async_op=True)
            for comm, name in ((one, "one"), (other, "other")) if step % 2 else ((other, "other"), (one, "one")):
                about = SUM._replace(layer=name)
                found.append(
                    float(comm.all_reduce(np.ones(step + 1), lambda a, b: a + b, about).sum()) == SIZE * (step + 1)
                )
            pending.wait()
        one.close()
        found.append(float(other.all_reduce(np.ones(1), lambda a, b: a + b, SUM)[0]) == SIZE)
    say(right=sum(found), of=len(found))


def subgroup() -> None:
    """A group of some ranks, numbered anew; a rank outside of it is refused."""
    import torch.distributed as dist

    group = dist.new_group([2, 1])
    told = ""
    try:
        with Communicator(group, deadline=30.0) as comm:
            place = [comm.rank, comm.size]
            total = float(comm.all_reduce(np.ones(1), lambda a, b: a + b, SUM)[0])
    except bnspec.CommunicatorError as error:
        told, place, total = str(error), [], 0.0
    say(told=gathered(told), places=gathered(place), totals=gathered(total))


def on_devices() -> None:
    """The way of payloads that stay on devices, with gloo in the place of NCCL and host memory in that of a device."""
    import torch
    import torch.distributed as dist

    def make(store: Any, rank: int, size: int, seconds: float) -> Any:
        return dist.ProcessGroupGloo(dist.PrefixStore("device", store), rank, size, datetime.timedelta(seconds=seconds))

    told = ""
    with Communicator(deadline=30.0) as comm, Communicator(deadline=30.0) as host:
        comm._devices._make = make
        x = torch.from_numpy(np.random.default_rng(RANK).standard_normal((3, 4)))
        alike = []
        for _ in range(2):
            got = comm._on_devices(x, lambda a, b: a + b, SUM)
            alike.append(torch.equal(got, host.all_reduce(x, lambda a, b: a + b, SUM)))
        try:
            comm._on_devices(x[: 1 + RANK], lambda a, b: a + b, SUM)
        except bnspec.CollectiveMismatch as error:
            told = str(error)
    say(alike=gathered(alike), told=gathered(told))


def outlives() -> None:
    """A communicator outlives the group that it was made of, and the store's server that the first rank had."""
    import torch.distributed as dist

    with Communicator(deadline=30.0) as comm:
        dist.destroy_process_group()
        if RANK:
            time.sleep(0.5)
        part = comm.split("all")
        totals = [float(each.all_reduce(np.ones(1), lambda a, b: a + b, SUM)[0]) for each in (comm, part)]
    say(totals=totals)


def main() -> None:
    if ":" in ACT or "," in ACT:
        for each in filter(None, ACT.split(",")):
            name, *numbers = each.split(":")
            globals()[name](*map(int, numbers))
    else:
        globals()[ACT](*map(int, sys.argv[2:]))


if __name__ == "__main__":
    main()
