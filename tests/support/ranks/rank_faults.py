"""A rank's program for test_mpi.py, test_nccl.py and test_torch_groups.py.

`rank_faults.py ACT FOLDER` writes what it is told of a fault; of several acts, `ACT,ACT`, each has its own folder.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rank_communicators import KIND, RANK, Communicator, gathered, put, take, world

import bnspec
from bnspec import CommunicatorError

DEADLINE = float(os.environ.get("BNSPEC_TEST_DEADLINE", "2"))
BAD = int(os.environ.get("BNSPEC_TEST_BAD", "1"))
ACT, FOLDER = sys.argv[1], Path(sys.argv[2])


def note(name: str, **values: Any) -> None:
    (FOLDER / f"{name}-{RANK}.json").write_text(json.dumps(values))


class Network:
    """Three layers in a row, as a program would have them."""

    def __init__(self, comm: Any, channels: int = 3, dtype: str = "float32", samples: int = 8, **options: Any) -> None:
        self.x = put(np.random.default_rng(RANK).standard_normal((samples, channels)).astype(dtype))
        names = ("conv1/bn", "conv2/bn", "conv3/bn")
        options = {"ema_update": "internal", **options}
        self.layers = {name: bnspec.BatchNorm(axis=1, comm=comm, name=name, **options) for name in names}

    def forward(self, *names: Any) -> None:
        for name in names or self.layers:
            self.y = self.layers[name](self.x)

    def backward(self, *names: Any) -> None:
        for name in names or reversed(list(self.layers)):
            self.layers[name].backward(self.x)


def order(comm: Any) -> None:
    net = Network(comm)
    net.forward(*(["conv2/bn", "conv1/bn"] if RANK == 2 else ["conv1/bn", "conv2/bn"]))


def skip(comm: Any) -> None:
    net = Network(comm)
    net.forward(*(["conv1/bn", "conv3/bn"] if RANK == 1 else ["conv1/bn", "conv2/bn", "conv3/bn"]))


def skip_last(comm: Any) -> None:
    """One rank goes backward while the others still go forward."""
    net = Network(comm)
    net.forward(*(["conv1/bn", "conv2/bn"] if RANK == 1 else []))
    net.backward("conv2/bn")


def channels(comm: Any) -> None:
    Network(comm, channels=5 if RANK == 1 else 3).forward()


def dtype(comm: Any) -> None:
    Network(comm, dtype="float64" if RANK == 1 else "float32").forward()


def config(comm: Any) -> None:
    Network(comm, epsilon=1e-3 if RANK == 1 else 1e-5).forward()


def ghost(comm: Any) -> None:
    Network(comm, virtual_batch_size=2, samples=4 if RANK == 1 else 8).forward()


def raises(comm: Any) -> None:
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        take(net.y)  # which ends what is under way there
        raise OSError("no space left")
    net.forward("conv2/bn")


def returns(comm: Any) -> None:
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK != 1:
        net.forward("conv2/bn")


def finalizes(comm: Any) -> None:
    """A rank that ends MPI itself tells the others before."""
    net = Network(comm)
    net.forward("conv1/bn")
    take(net.y)
    if RANK == 1:
        from mpi4py import MPI

        MPI.Finalize()
    else:
        net.forward("conv2/bn")


def late(comm: Any) -> None:
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        time.sleep(2 * DEADLINE)
    net.forward("conv2/bn")
    net.forward("conv3/bn")


def late_last(comm: Any) -> None:
    """The late rank's collective is its last: it must hear there that the others gave up."""
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        time.sleep(2 * DEADLINE)
    net.forward("conv2/bn")


def late_large(comm: Any) -> None:
    """The same with messages that no library sends before the other side takes them."""
    x = put(np.zeros((2, 200_000), "float32"))
    layer = bnspec.BatchNorm(axis=1, comm=comm, name="conv2/bn", ema_update="internal")
    layer(x)
    if RANK == 1:
        time.sleep(2 * DEADLINE)
    layer(x)


def several_rounds(comm: Any) -> None:
    """A rank that raises is named to those too that never hear it directly."""
    raises(comm)


def part_raises(comm: Any) -> None:
    """A rank that ends is missed in its parts as well."""
    part = comm.split("all")
    net = Network(part)
    net.forward("conv1/bn")
    if RANK == 1:
        take(net.y)  # which ends what is under way there
        raise OSError("no space left")
    net.forward("conv2/bn")


def two_threads(comm: Any) -> None:
    """One communicator on two threads of a rank."""
    net, found = Network(comm), []

    def call(name: str) -> None:
        try:
            net.layers[name](net.x)
        except CommunicatorError as error:
            found.append(str(error))

    threads = [threading.Thread(target=call, args=(name,)) for name in ("conv1/bn", "conv2/bn")]
    if RANK == 0:
        for thread in threads:
            thread.start()
            time.sleep(0.2)
        for thread in threads:
            thread.join()
        note("threads", texts=found)
    else:
        time.sleep(0.6)
    net.forward("conv3/bn")


def interrupt(comm: Any) -> None:
    """Ctrl-C on a rank that waits."""

    def stop(number: Any, frame: Any) -> None:
        raise KeyboardInterrupt

    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    elif RANK == 2:
        time.sleep(0.6)
    try:
        net.forward("conv2/bn")
    except KeyboardInterrupt:
        net.forward("conv3/bn")


def fold_raises(comm: Any) -> None:
    """One rank's own code fails inside of a collective."""

    def combine(a: Any, b: Any) -> Any:
        if RANK == 1:
            raise ZeroDivisionError("of its own")
        return a + b

    about = bnspec.Signature("moments", "conv1/bn", 2, 1, "float32", "{}")
    try:
        comm.all_reduce(put(np.ones(2)), combine, about)
    except ZeroDivisionError:
        pass
    comm.all_reduce(put(np.ones(2)), combine, about._replace(layer="conv2/bn"))


def killed(comm: Any) -> None:
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == BAD:
        os.kill(os.getpid(), signal.SIGKILL)
    net.forward("conv2/bn")


def stuck(comm: Any) -> None:
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        time.sleep(600)
    net.forward("conv2/bn")


def nan(comm: Any) -> None:
    net = Network(comm)
    if RANK == 1:
        net.x[0, 0] = np.nan
    net.forward()
    state = net.layers["conv3/bn"].state
    note("value", mean=state.mean.tolist(), isnan=np.isnan(take(net.y)).any(axis=0).tolist())


def split(comm: Any) -> None:
    """Ranks 0 and 2 in one part, 1 alone; the part of two disagrees, the whole goes on."""
    part = comm.split(RANK % 2)
    try:
        Network(part, channels=5 if RANK == 2 else 3).forward()
    except CommunicatorError as error:
        note("part", kind=type(error).__name__, text=str(error))
    total = comm.all_reduce(
        put(np.ones(2)), lambda a, b: a + b, bnspec.Signature("moments", "after", 2, 1, "float32", "{}")
    )
    note("value", total=total.tolist(), size=part.size)


def order_known(comm: Any) -> None:
    """Layers of different sizes that all ranks know, in another order: NCCL itself does not see it."""
    net, wide = Network(comm), Network(comm, channels=5)
    wide.layers = {name: bnspec.BatchNorm(axis=1, comm=comm, name=f"wide/{name}") for name in wide.layers}
    for _ in range(2):
        net.forward()
        wide.forward()
    first, second = (wide, net) if RANK == 2 else (net, wide)
    first.forward("conv1/bn")
    try:
        second.forward("conv1/bn")  # it may be known by now
    finally:
        note("value", isnan=bool(np.isnan(take(first.y)).all()))
    take(second.y)
    net.forward("conv3/bn")


def blocked_host(comm: Any) -> None:
    """The hosts wait for their devices, which wait for a rank that is elsewhere."""
    net = Network(comm)
    for _ in range(3):
        net.forward("conv2/bn")
        take(net.y)
    if RANK == 1:
        time.sleep(2 * DEADLINE)
        return
    net.forward("conv2/bn")
    begun = time.perf_counter()
    note("value", isnan=bool(np.isnan(take(net.y)).all()), seconds=time.perf_counter() - begun)
    net.forward("conv3/bn")


def broken_device(comm: Any) -> None:
    """A device that answers with an error from now on; its host would wait for ever for what is queued."""
    from cupy import _stream

    net = Network(comm)
    net.forward("conv1/bn")
    take(net.y)
    if RANK == 1:
        _stream._break_device(700)
    net.forward("conv2/bn")
    time.sleep(0.5)
    net.forward("conv2/bn")
    comm.synchronize()


def blind(comm: Any) -> None:
    """The thread that looks after the collectives fails itself."""
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        comm._control.notices = lambda: 1 / 0
    time.sleep(0.3)
    net.forward("conv2/bn")
    comm.synchronize()


def nccl_raises(comm: Any) -> None:
    """NCCL itself fails, when it is called or when it is asked."""
    from cupy.cuda import nccl

    def fail(*_: Any) -> None:
        raise nccl.NcclError(6)

    def unknown(_: Any) -> None:
        raise KeyError(8)  # as CuPy does where it has no name for a status

    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 1:
        type(comm._sender._comm).allGather = fail
    elif RANK == 2:
        type(comm._sender._comm).check_async_error = unknown
        time.sleep(0.3)
    net.forward("conv1/bn")
    comm.synchronize()


def half(comm: Any) -> None:
    """A message of which the header arrives, and the rest never."""
    net = Network(comm, channels=200)
    for _ in range(3):
        net.forward("conv2/bn")
        take(net.y)
    if RANK == 1:
        comm._sender._comm._pieces = 64 + 8
    net.forward("conv2/bn")
    note("value", isnan=bool(np.isnan(take(net.y)).all()))
    comm.synchronize()


def split_or_layer(comm: Any) -> None:
    """One rank splits while the others call a layer."""
    net = Network(comm)
    net.forward("conv1/bn")
    if RANK == 2:
        comm.split(0)
    net.forward("conv2/bn")


def part_handled(comm: Any) -> None:
    """A part that failed, which was handled, does not keep the whole from ending well."""
    PARTS.append(comm.split(0))
    try:
        Network(PARTS[0], channels=5 if RANK == 2 else 3).forward()
    except CommunicatorError as error:
        note("part", kind=type(error).__name__, text=str(error))
    net = Network(comm)
    net.forward()
    note("value", finite=bool(np.isfinite(take(net.y)).all()))


def closing(comm: Any) -> None:
    """Communicators that are closed in another order on each rank, dropped, and left to the end of the program."""
    PARTS.extend(comm.split(color) for color in range(4))
    for part in PARTS:
        Network(part).forward()
    first, second = (0, 1) if RANK else (1, 0)
    PARTS[first].close()
    PARTS[second].close()
    thread = PARTS[2]._watchdog.thread
    del PARTS[2:3]
    note("value", let_go=thread.ended(DEADLINE))


def stuck_in_call(comm: Any) -> None:
    """A rank that stops between the comparison and its call of NCCL's, in which the others wait to be connected."""
    net = Network(comm)
    if RANK == 1:
        exchange = comm._sender._exchange
        comm._sender._exchange = lambda *given: (time.sleep(5 * DEADLINE), exchange(*given))[1]
    net.forward("conv1/bn")


def part_unread(comm: Any) -> None:
    """A fault of a part that comes to light when the whole is closed."""
    PARTS.append(comm.split(0))
    net = Network(PARTS[0])
    net.forward("conv1/bn")
    if RANK != 2:
        net.forward("conv1/bn")


def late_known(comm: Any) -> None:
    """A rank that is late for a layer that all know, so that the others wait for it on their devices."""
    net = Network(comm)
    net.forward("conv1/bn", "conv2/bn")
    take(net.y)
    if RANK == 1:
        time.sleep(2 * DEADLINE)
    net.forward("conv2/bn")


PARTS: list[Any] = []


def unread() -> None:
    """A rank ends early; the others have queued what it is needed for, and end too without a look at it."""
    world().deadline = DEADLINE
    net = Network(None, sync_statistics=KIND)
    net.forward()
    if RANK != 1:
        net.forward("conv2/bn")
    note("value", ended=True)


def uncaught() -> None:
    """An error that nobody catches, between two layers, with the communicator of the whole process."""
    world().deadline = DEADLINE
    net = Network(None, sync_statistics=KIND)
    net.forward("conv1/bn")
    if RANK == BAD:
        take(net.y)  # which ends what is under way there
        raise OSError("no space left")
    begun = time.perf_counter()
    try:
        net.forward("conv2/bn")
    except CommunicatorError as error:
        note("told", kind=type(error).__name__, text=str(error), seconds=time.perf_counter() - begun)


def missing() -> None:
    """One rank does not make a communicator."""
    begun = time.perf_counter()
    if RANK == 1:
        time.sleep(float(os.environ.get("BNSPEC_TEST_AWAY", 20 * DEADLINE)))
        return
    try:
        Communicator(deadline=DEADLINE)
    except CommunicatorError as error:
        note("told", kind=type(error).__name__, text=str(error), seconds=time.perf_counter() - begun)


def several() -> None:
    """One act after the other, each with a communicator of its own: to start processes takes seconds."""
    global FOLDER
    every = FOLDER
    for name in ACT.split(","):
        FOLDER = every / name
        FOLDER.mkdir(exist_ok=True)
        gathered(name)  # the ranks begin together, so that the deadline is that of the act
        perform(name)


def main() -> None:
    if "," in ACT:
        several()
    else:
        perform(ACT)


def perform(name: str) -> None:
    act = globals()[name]
    if name in ("uncaught", "missing", "unread"):
        act()
        return
    comm = Communicator(deadline=DEADLINE)
    begun = time.perf_counter()
    try:
        with comm:
            act(comm)
    except CommunicatorError as error:
        note("told", kind=type(error).__name__, text=str(error), seconds=time.perf_counter() - begun)
        try:
            Network(comm).forward("conv1/bn")
        except CommunicatorError as again:
            note("again", text=str(again))
        if name in ("killed", "stuck"):
            raise
    except OSError:
        pass


main()
