"""How the cost of joining one layer grows with the number of ranks: `python benchmarks/scaling.py [--json FILE]`.

It starts MPI jobs of 2 to 16 ranks on this machine, times `join_moments` in each, fits a model, and predicts larger
worlds. A rank's work for one forward message of C channels is

    work(W, C) = r + m*(o + n*b) + f*(p + C*q),      n = 64 + 8*(3*C + 1) bytes

with m messages received (and about as many sent) and f folds, both from the plan of `bnspec_backends.ranks.schedule`: W
- 1 up to 32 ranks, at most 7 per round above. Ranks that share cores wait for each other's turn, so on a machine of P
cores a call takes about

    time(W, C) = work(W, C) * max(1, W/P)

which is what the measured times are fitted to, with every constant >= 0. On a cluster each rank has its own core, and
each round adds the latency of the network, which this machine cannot measure: it is an assumption, named below.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from bnspec_backends.ranks.schedule import plan
from bnspec_conformance.run.launch import command

RANKS = (2, 3, 4, 6, 8, 12, 16)
CHANNELS = (64, 512, 4096)

#: Assumed of a cluster: seconds from one process to another, and bytes per second of one process.
LATENCY, BANDWIDTH = 2e-6, 5e9


def program(calls, blocks):
    """What each rank of a job does; the first prints medians in seconds by number of channels."""
    from mpi4py import MPI

    import bnspec
    from bnspec._sync import join_moments, signature
    from bnspec_backends.ranks import MPICommunicator

    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, center=False, scale=False)
    comm = MPICommunicator(deadline=120.0)
    found = {}
    for channels in CHANNELS:
        x = np.random.default_rng(comm.rank).standard_normal((8, channels)).astype("float32")
        _, local, _ = bnspec.batch_norm(x, bnspec.Params(None, None), config)
        about = signature("moments", f"bn{channels}", x, (1, channels), config)
        times = []
        for _ in range(blocks):
            MPI.COMM_WORLD.Barrier()
            begun = time.perf_counter()
            for _ in range(calls):
                join_moments(local, config, comm, about)
            times.append((time.perf_counter() - begun) / calls)
        found[channels] = statistics.median(times[1:])
    if comm.rank == 0:
        print(json.dumps(found))


def features(size, channels):
    """What the constants of the model are multiplied with, for the busiest rank, up to 1,000 of them."""
    rows = []
    for rank in range(0, size, max(1, size // 1000)):
        rounds = plan(size, rank)
        messages = sum(max(len(each.sources) - 1, len(each.targets)) for each in rounds)
        folds = sum(len(each.sources) - 1 for each in rounds)
        rows.append((messages, folds, len(rounds)))
    messages, folds, rounds = map(max, zip(*rows))
    n = 64 + 8 * (3 * channels + 1)
    return [1, messages, messages * n, folds, folds * channels], rounds


def nonnegative(matrix, target):
    """Least squares of the relative error with constants >= 0: those that want to be less are left out."""
    matrix, target = matrix / target[:, None], np.ones_like(target)
    keep = list(range(matrix.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(matrix[:, keep], target, rcond=None)
        if (found >= 0).all() or len(keep) == 1:
            whole = np.zeros(matrix.shape[1])
            whole[keep] = np.maximum(found, 0)
            return whole
        keep.pop(int(np.argmin(found * np.linalg.norm(matrix[:, keep], axis=0))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=20, help="in a block (default 20)")
    parser.add_argument("--blocks", type=int, default=12, help="(default 12)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.program:
        program(options.calls, options.blocks)
        return
    cores = len(os.sched_getaffinity(0))
    given = [__file__, "--program", "--calls", str(options.calls), "--blocks", str(options.blocks)]
    measured = {}
    for size in RANKS:
        done = subprocess.run(command(size, given), capture_output=True, text=True, timeout=600, check=True)
        measured[size] = {int(c): s for c, s in json.loads(done.stdout).items()}
    cells = [(size, c) for size in RANKS for c in CHANNELS]
    matrix = np.asarray([[v * max(1, size / cores) for v in features(size, c)[0]] for size, c in cells])
    target = np.asarray([measured[size][c] for size, c in cells])
    constants = nonnegative(matrix, target)
    names = ("r, s per call", "o, s per message", "b, s per byte", "p, s per fold", "q, s per fold and channel")
    print(f"{cores} cores; more ranks than that share them\n\n| constant | value |\n| --- | --- |")
    for name, value in zip(names, constants):
        print(f"| {name} | {value:.3g} |")
    print("\n| ranks | C | measured, us | model, us |  |\n| --- | --- | --- | --- | --- |")
    for (size, c), seconds, fit in zip(cells, target, matrix @ constants):
        shared = "oversubscribed" if size > cores else ""
        print(f"| {size} | {c} | {seconds * 1e6:.0f} | {fit * 1e6:.0f} | {shared} |")
    print("\n| ranks | rounds | C | predicted, us | sent per rank, KiB |\n| --- | --- | --- | --- | --- |")
    predicted = {}
    for size in (16, 32, 64, 1024, 65536):
        for c in CHANNELS:
            values, rounds = features(size, c)
            wire = rounds * LATENCY + values[2] / BANDWIDTH
            seconds = float(np.dot(values, constants)) + wire
            predicted[f"{size}/{c}"] = seconds
            print(f"| {size} | {rounds} | {c} | {seconds * 1e6:.0f} | {values[2] / 1024:.0f} |")
    if options.json:
        with open(options.json, "w") as file:
            content = {"cores": cores, "measured": measured, "constants": constants.tolist(), "predicted": predicted}
            json.dump(content, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
