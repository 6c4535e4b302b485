"""What joining the statistics of one layer costs: `mpiexec -n 2 python benchmarks/sync.py [--json FILE]`.

Each row is one number of channels. In turns, so that a busy machine disturbs all alike, the ranks time

- ours: `join_moments` forward and `join_sums` backward over `MPICommunicator`: one message each, merged by count;
- tensorpack: two averaged messages forward (mean and mean of squares, `MPI_Allreduce`), two backward;
- gloo: `torch.distributed.all_reduce` of the bytes that ours sends, one forward and one backward;
- bare: ours without signature, sequence and deadline: the same messages, received blindly, folded the same way.

Medians over blocks of calls on the first rank, in microseconds. torch's own SyncBatchNorm refuses to run on a CPU;
the last line says what it says.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time

import numpy as np
from mpi4py import MPI

import bnspec
from bnspec._sync import _add, _merge, join_moments, join_sums, signature
from bnspec_backends.ranks import MPICommunicator

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.Get_rank(), WORLD.Get_size()


class Way:
    """One way to join statistics."""

    def end(self):
        """Nothing to end."""


class Ours(Way):
    """bnspec's way."""

    name = "ours"

    def __init__(self, comm):
        self.comm = comm
        self.config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)

    def prepare(self, channels):
        x = np.random.default_rng(RANK).standard_normal((8, channels)).astype("float32")
        _, self.local, _ = bnspec.batch_norm(x, bnspec.Params(None, None), bnspec_config(channels))
        self.about = [signature(o, f"bn{channels}", x, (1, channels), self.config) for o in ("moments", "gradients")]
        self.sums = [np.ones((1, channels)), np.ones((1, channels))]

    def forward(self):
        join_moments(self.local, self.config, self.comm, self.about[0])

    def backward(self):
        join_sums(self.sums, self.comm, self.about[1])


class Tensorpack(Way):
    """Equal-weight means over ranks, one message for each, in float32; the variance is their difference."""

    name = "tensorpack"

    def __init__(self, mpi):
        self.mpi = mpi

    def prepare(self, channels):
        self.a, self.b = np.ones(channels, "f4"), np.ones(channels, "f4")

    def forward(self):
        mean, square = np.empty_like(self.a), np.empty_like(self.b)
        self.mpi.Allreduce(self.a, mean)
        mean /= SIZE
        self.mpi.Allreduce(self.b, square)
        square /= SIZE
        return mean, square - mean * mean

    backward = forward


class Gloo(Way):
    """The same payload by torch.distributed."""

    name = "gloo"

    def __init__(self, folder):
        import torch
        import torch.distributed as dist

        self.torch, self.dist = torch, dist
        dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=RANK, world_size=SIZE)

    def prepare(self, channels):
        self.payload = [self.torch.ones(n, dtype=self.torch.float64) for n in (3 * channels + 1, 2 * channels)]

    def forward(self):
        self.dist.all_reduce(self.payload[0])

    def backward(self):
        self.dist.all_reduce(self.payload[1])

    def end(self):
        self.dist.destroy_process_group()


class Bare(Way):
    """The same exchange without looking at what comes in."""

    name = "bare"

    def __init__(self, mpi):
        self.mpi = mpi

    def prepare(self, channels):
        rng = np.random.default_rng(RANK)
        self.payload = [np.abs(rng.standard_normal((1, 3 * channels + 1))), np.ones((2, 1, channels))]
        self.rows = [np.empty((SIZE, *p.shape)) for p in self.payload]

    def _exchange(self, which, combine):
        payload, rows = self.payload[which], self.rows[which]
        others = [r for r in range(SIZE) if r != RANK]
        requests = [self.mpi.Isend(payload, r, 9) for r in others]
        rows[RANK] = payload
        status, pending = MPI.Status(), others
        while pending:
            for source in list(pending):
                message = self.mpi.Improbe(source, 9, status)
                if message is not None:
                    message.Recv(rows[source])
                    pending = [p for p in pending if p != source]
            os.sched_yield()
        while not MPI.Request.Testall(requests):
            os.sched_yield()
        with np.errstate(all="ignore"):
            return functools.reduce(combine, rows)

    def forward(self):
        self._exchange(0, functools.partial(_merge, added=1))

    def backward(self):
        self._exchange(1, _add)


def bnspec_config(channels):
    return bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, center=False, scale=False)


def timed(call, calls):
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begun) / calls * 1e6


def measure(rows, channels, blocks, calls):
    """Median microseconds by way and direction."""
    found = {}
    for row in rows:
        row.prepare(channels)
        timed(row.forward, 10)
        timed(row.backward, 10)
    for _ in range(blocks):
        for row in rows:
            for direction in ("forward", "backward"):
                WORLD.Barrier()
                found.setdefault((row.name, direction), []).append(timed(getattr(row, direction), calls))
    return {key: statistics.median(values) for key, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--blocks", type=int, default=30, help="of calls, in turns (default 30)")
    parser.add_argument("--calls", type=int, default=20, help="in a block (default 20)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    folder = WORLD.bcast(tempfile.mkdtemp(prefix="bnspec-sync-") if RANK == 0 else None)
    comm = MPICommunicator(deadline=120.0)
    rows = [Ours(comm), Tensorpack(WORLD.Dup()), Bare(WORLD.Dup())]
    said = "torch is not installed"
    try:
        rows.append(Gloo(folder))
        said = sync_batch_norm()
    except ImportError:
        pass
    result = {c: measure(rows, c, options.blocks, options.calls) for c in options.channels}
    if RANK == 0:
        report(result, [row.name for row in rows], said)
        if options.json:
            table = {c: {"/".join(k): v for k, v in r.items()} for c, r in result.items()}
            with open(options.json, "w") as file:
                json.dump({"ranks": SIZE, "cores": os.cpu_count(), "microseconds": table}, file, indent=1)
    sys.stdout.flush()
    for row in rows:
        row.end()


def sync_batch_norm():
    """What torch's own layer says to this."""
    import torch

    try:
        torch.nn.SyncBatchNorm(4)(torch.ones(2, 4))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it runs"


def report(result, names, said):
    library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
    print(
        f"{SIZE} ranks on {os.cpu_count()} cores{' (oversubscribed)' if SIZE > (os.cpu_count() or 1) else ''}, "
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, {' '.join(library.split())}"
    )
    print("us per call, median; bytes: what a rank sends per call in ours and in tensorpack's scheme\n")
    others = [name for name in names if name != "ours"]
    head = ["direction", "C", *names, *(f"{name}/ours" for name in others), "bytes ours", "bytes tensorpack"]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for direction in ("forward", "backward"):
        for channels, values in result.items():
            own = values["ours", direction]
            cells = [direction, str(channels), *(f"{values[name, direction]:.0f}" for name in names)]
            cells += [f"{values[name, direction] / own:.2f}" for name in others]
            numbers = 3 * channels + 1 if direction == "forward" else 2 * channels
            cells += [str((64 + 8 * numbers) * (SIZE - 1)), str(2 * 4 * channels * 2 * (SIZE - 1) // SIZE)]
            print("| " + " | ".join(cells) + " |")
    print(f"\ntorch.nn.SyncBatchNorm on a CPU: {said}")


if __name__ == "__main__":
    main()
