"""Draw what ghost batches, synchronized statistics and batch renormalization do to the statistics.

    python examples/gallery_statistics.py --folder docs/gallery

Writes ghost.svg, sync.svg and renorm.svg, each time the same. Needs matplotlib.
"""

import argparse
from pathlib import Path

import numpy as np

import bnspec
from bnspec_backends.ranks import threads

SAMPLES, CHANNELS = 256, 64
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
RANKS, PER_RANK, STEPS = 4, 4, 150
TRUE_VARIANCE = 4.0
#: Of renorm: label and limits.
LIMITS = (("batch normalization", 1.0, 0.0), ("dmax = 0.5", 1.5, 0.5), ("dmax = 5", 3.0, 5.0))


def ghost():
    """Spread of the means and variances of groups, by the samples in a group."""
    x = np.random.default_rng(0).standard_normal((SAMPLES, CHANNELS))
    spread = []
    for size in SIZES:
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
        params, _ = bnspec.init(config, channels=CHANNELS, like=x)
        _, stats, _ = bnspec.batch_norm(x, params, config)
        spread.append((np.sqrt(np.mean(stats.mean**2)), np.sqrt(np.mean((stats.var - 1) ** 2))))
    return np.asarray(spread)


def sync():
    """Running variances after each step: of every rank by its own statistics, and by those of all."""
    batches = np.random.default_rng(1).standard_normal((RANKS, STEPS, PER_RANK, 1)) * np.sqrt(TRUE_VARIANCE)

    def train(comm, mine):
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=1)
        params, local = bnspec.init(config, channels=1, like=mine)
        joined, found = local, []
        for x in mine:
            _, stats, _ = bnspec.batch_norm(x, params, config)
            local = bnspec.update_running(local, stats, config)
            _, stats, _ = bnspec.batch_norm(x, params, config, comm=comm)
            joined = bnspec.update_running(joined, stats, config)
            found.append((float(local.var[0]), float(joined.var[0])))
        return found

    return np.asarray(threads.run(RANKS, train, args=list(batches)))  # (rank, step, kind)


def renorm():
    """Mean of a batch of eight, and the mean of y: for each kind, after the running statistics have settled."""
    rng = np.random.default_rng(2)
    settled = {"mean": np.zeros(1), "var": np.ones(1), "stddev": np.ones(1)}
    batches = rng.standard_normal((120, 8, 1)) + rng.standard_normal((120, 1, 1)) * 0.5
    means = []
    for _, rmax, dmax in LIMITS:
        limits = bnspec.Renorm(form="paper", rmax=rmax, dmax=dmax)
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.99, correction=0, renorm=limits)
        params, state = bnspec.init(config, channels=1, like=batches)
        state = state._replace(**{name: value for name, value in settled.items() if getattr(state, name) is not None})
        means.append([float(bnspec.batch_norm(x, params, config, state=state)[0].mean()) for x in batches])
    return batches.mean((1, 2)), np.asarray(means)


def figure(width=7.0, height=4.2):
    """Return a figure of this size in inches, in a style in which it is the same each time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bnspec", "font.size": 11})
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def save(drawn, path):
    """Write the figure without a date."""
    for axes in drawn.axes:
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    drawn.savefig(path, metadata={"Date": None})


def draw_ghost(path):
    """Spread against the size of a group, beside what theory says."""
    drawn, axes = figure()
    spread, sizes = ghost(), np.asarray(SIZES)
    axes.loglog(sizes, spread[:, 1], "s", label="variance", base=2)
    axes.loglog(sizes, spread[:, 0], "o", label="mean", base=2)
    expected = np.sqrt(2 * (sizes - 1) / sizes**2 + 1 / sizes**2), 1 / np.sqrt(sizes)
    for line, label in zip(expected, ("expected of normal numbers", None)):
        axes.loglog(sizes, line, color="gray", label=label, base=2, zorder=0)
    axes.set(xlabel="samples in a ghost batch", ylabel="error, root mean square")
    save(drawn, path)


def draw_sync(path):
    """Running variance by step."""
    drawn, axes = figure()
    found = sync()
    for rank in range(RANKS):
        axes.plot(found[rank, :, 0], color="tab:orange", alpha=0.45, label="each rank's own" if rank == 0 else None)
    axes.plot(found[0, :, 1], color="tab:blue", linewidth=2, label="of all ranks together")
    axes.axhline(TRUE_VARIANCE, color="gray", linestyle="--", label="true variance")
    axes.set(xlabel="step", ylabel="running variance", ylim=(0, None))
    save(drawn, path)


def draw_renorm(path):
    """Mean of y against the mean of the batch."""
    drawn, axes = figure()
    batch, means = renorm()
    for (label, *_), y, marker in zip(LIMITS, means, "oxs"):
        axes.scatter(batch, y, s=14, marker=marker, label=label, alpha=0.8)
    axes.set(xlabel="mean of the batch, in running standard deviations", ylabel="mean of y")
    save(drawn, path)


def main():
    """Draw all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/gallery"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("ghost", draw_ghost), ("sync", draw_sync), ("renorm", draw_renorm)):
        draw(folder / f"{name}.svg")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()
