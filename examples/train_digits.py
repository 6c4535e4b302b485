"""Train a small convolutional network on scikit-learn's digits, with few samples per process.

    python examples/train_digits.py
    mpiexec -n 4 python examples/train_digits.py --plot digits.png

Four samples per process are too few for statistics of their own. The script trains the same network with batch
statistics of each process alone (local), of all processes together (sync), of groups that span the processes (ghost),
and with batch renormalization on each process alone (renorm), and shows what each reaches on images that it has not
seen. Everything but the layers is plain NumPy. Needs scikit-learn and rich; matplotlib for --plot, mpi4py for mpiexec.
"""

import argparse
import functools
import sys
from dataclasses import dataclass, field

import numpy as np

import bnspec

MODES = {
    "local": "each process by its own statistics",
    "sync": "statistics of all processes",
    "ghost": "groups of two samples of every process",
    "renorm": "each process by its own, renormalized",
}


class Alone:
    """One process; what a communicator does for several."""

    rank, size = 0, 1

    def all_reduce(self, payload, combine, signature):
        """Nothing to join."""
        return payload


def norm(mode, comm, name, axis=1):
    """The layer under comparison; gamma and beta are trained by its own `backward`."""
    options = {"axis": axis, "decay": 0.9, "ema_update": "internal", "name": name}
    shared = None if isinstance(comm, Alone) else comm
    if mode == "renorm":
        return bnspec.BatchRenorm(rmax=1.5, dmax=0.5, **options)
    if mode == "ghost":
        return bnspec.BatchNorm(comm=shared, virtual_batch_size=2, ghost_source="merged", **options)
    return bnspec.BatchNorm(comm=shared if mode == "sync" else None, **options)


@dataclass
class Conv:
    """A 3 x 3 convolution with padding 1, without bias: beta takes its place."""

    weight: np.ndarray  # (out, in, 3, 3)
    stride: int = 1
    grad: np.ndarray = field(init=False)

    def __call__(self, x):
        """Return the convolution of (N, in, H, W)."""
        self.padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(self.padded, (3, 3), (2, 3))
        self.windows = windows[:, :, :: self.stride, :: self.stride]
        return np.einsum("nihwab,oiab->nohw", self.windows, self.weight, optimize=True)

    def backward(self, dy):
        """Keep the gradient of the weight, and return that of x."""
        self.grad = np.einsum("nohw,nihwab->oiab", dy, self.windows, optimize=True)
        dx = np.zeros_like(self.padded)
        h, w = dy.shape[2:]
        for a in range(3):
            for b in range(3):
                rows, columns = (slice(k, k + self.stride * n, self.stride) for k, n in ((a, h), (b, w)))
                dx[:, :, rows, columns] += np.einsum("nohw,oi->nihw", dy, self.weight[:, :, a, b], optimize=True)
        return dx[:, :, 1:-1, 1:-1]


class Network:
    """conv - norm - ReLU, twice, then the mean over the image and a linear map."""

    def __init__(self, mode, comm, dtype, seed=0):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(dtype)

        self.convs = [Conv(draw(8, 1, 3, 3)), Conv(draw(16, 8, 3, 3), stride=2)]
        self.norms = [norm(mode, comm, f"conv{i}/bn") for i in (1, 2)]
        self.last = draw(10, 16)
        self.velocity = {}

    def forward(self, x, training):
        """Logits of a batch of images."""
        self.masks = []
        for conv, layer in zip(self.convs, self.norms):
            layer.train(training)
            x = layer(conv(x))
            self.masks.append(x > 0)
            x = np.where(self.masks[-1], x, 0)
        self.area, self.features = x.shape[2:], x.mean(axis=(2, 3))
        return self.features @ self.last.T

    def backward(self, dlogits):
        """Gradients of all weights, in the order of `weights`."""
        grads = [dlogits.T @ self.features]
        dx = (dlogits @ self.last)[:, :, None, None] / np.prod(self.area) * np.ones((1, 1, *self.area), dlogits.dtype)
        for conv, layer, mask in zip(self.convs[::-1], self.norms[::-1], self.masks[::-1]):
            dx = conv.backward(layer.backward(np.where(mask, dx, 0)))
            grads += [conv.grad, layer.gradients.gamma, layer.gradients.beta]
        return grads

    def weights(self):
        """Arrays that are trained, in the order of `backward`; those of the layers as they are now."""
        arrays = [self.last]
        for conv, layer in zip(self.convs[::-1], self.norms[::-1]):
            arrays += [conv.weight, layer.params.gamma, layer.params.beta]
        return arrays

    def step(self, grads, rate):
        """Gradient descent with momentum, in place."""
        for i, (array, grad) in enumerate(zip(self.weights(), grads)):
            self.velocity[i] = 0.9 * self.velocity.get(i, 0) + grad
            array -= (rate * self.velocity[i]).astype(array.dtype)


def softmax_loss(logits, labels, samples):
    """Mean loss over all processes' samples as this process's share, and its gradient."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = shifted / shifted.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probability[rows, labels]).sum() / samples
    probability[rows, labels] -= 1
    return loss, probability / samples


def sum_over_ranks(comm, grads):
    """Every process's gradients added up, in the order of the processes and in one message."""
    flat = np.concatenate([grad.ravel() for grad in grads])
    about = bnspec.Signature("weights", "network", flat.size, 1, str(flat.dtype), "{}")
    total = comm.all_reduce(flat, np.add, about)
    ends = np.cumsum([grad.size for grad in grads])
    return [total[end - grad.size : end].reshape(grad.shape) for grad, end in zip(grads, ends)]


def train(mode, comm, data, options, tick, *, joined=1):
    """Train one network; `joined` processes' samples per step on this one. Return accuracies and the network."""
    x, labels, test_x, test_labels = data
    network = Network(mode, comm, options.dtype)
    order = np.random.default_rng(options.seed)
    per_step = options.batch * comm.size * joined
    reached = []
    for _ in range(options.epochs):
        shuffled = order.permutation(len(x))  # the same on every process
        for start in range(0, len(x) - per_step + 1, per_step):
            mine = shuffled[start : start + per_step].reshape(comm.size, -1)[comm.rank]
            logits = network.forward(x[mine], training=True)
            _, dlogits = softmax_loss(logits, labels[mine], per_step)
            network.step(sum_over_ranks(comm, network.backward(dlogits)), options.rate)
            tick()
        guess = network.forward(test_x, training=False).argmax(axis=1)
        reached.append(float((guess == test_labels).mean()))
    return reached, network


def digits(dtype, limit):
    """Training and test images, scaled to about 0 and 1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16).astype(dtype)
    mixed = np.random.default_rng(0).permutation(len(images))
    cut = len(images) * 4 // 5
    first, rest = mixed[:cut][:limit], mixed[cut:]
    return images[first], labels[first], images[rest], labels[rest]


def check(comm, data, options):
    """Whether processes with joint statistics train the weights that one process trains on the joined batch."""
    _, several = train("sync", comm, data, options, lambda: None)
    _, one = train("sync", Alone(), data, options, lambda: None, joined=comm.size)
    return max(float(np.abs(a - b).max()) for a, b in zip(several.weights(), one.weights()))


def plot(results, path, title):
    """Accuracy on unseen images after each epoch, as seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for mode, reached in results.items():
        axes.plot(range(1, len(reached) + 1), [100 * r for r in reached], marker="o", markersize=3, label=MODES[mode])
    axes.set(xlabel="epoch", ylabel="accuracy on unseen digits, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def communicator():
    """Of the MPI job that this is a process of, if it is one."""
    try:
        from mpi4py import MPI
    except ImportError:
        return Alone()
    if MPI.COMM_WORLD.Get_size() == 1:
        return Alone()
    return bnspec.get_communicator("mpi")


def main():
    """Train with each kind of statistics, and tell and plot what it reaches."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4, help="samples per process and step (default 4)")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="compare sync with one process on the joined batch")
    options = parser.parse_args()
    comm, data = communicator(), digits(options.dtype, options.limit)
    if options.check:
        difference = check(comm, data, options)
        if comm.rank == 0:
            print(f"{comm.size} processes and one: weights differ by at most {difference:.3g}")
        sys.exit(difference > 1e-10)

    from rich.progress import Progress

    steps = options.epochs * (len(data[0]) // (options.batch * comm.size))
    results = {}
    with Progress(transient=True, disable=comm.rank > 0 or not sys.stdout.isatty()) as bar:
        for mode in options.modes:
            task = bar.add_task(mode, total=steps)
            results[mode], _ = train(mode, comm, data, options, functools.partial(bar.advance, task))
    if comm.rank == 0:
        title = f"{comm.size} process{'es' if comm.size > 1 else ''}, {options.batch} samples each"
        print(f"{title}; accuracy on unseen digits after {options.epochs} epochs, and the best")
        for mode, reached in results.items():
            print(f"{mode:7} {reached[-1]:6.1%} {max(reached):6.1%}  {MODES[mode]}")
        if options.plot:
            plot(results, options.plot, title)


if __name__ == "__main__":
    main()
