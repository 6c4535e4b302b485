"""Train a small residual network of torch on scikit-learn's digits, with few samples per process.

    torchrun --nproc-per-node 2 examples/torch_resnet.py --plot resnet.png
    python examples/torch_resnet.py --epochs 1

The model is written with torch's own BatchNorm2d; `bnspec.torch.replace` then gives it statistics of each process alone
(local), of all processes (sync), of ghost groups over the processes (ghost), or batch renormalization (renorm). Four
samples per process are too few for statistics of their own, which is what the plot shows. Needs torch and scikit-learn;
matplotlib for --plot.
"""

import argparse
import copy

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

import bnspec
import bnspec.torch

MODES = {
    "local": "each process by its own statistics",
    "sync": "statistics of all processes",
    "ghost": "groups of two samples of every process",
    "renorm": "each process by its own, renormalized",
}

#: Weight of a batch in the running statistics: small, since a batch of four samples says little.
MOMENTUM = 0.02


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, momentum=MOMENTUM)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out, momentum=MOMENTUM)
            )

    def forward(self, x):
        """Return the sum, rectified."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def network():
    """Return a residual network for images of 8 x 8."""
    stem = [nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8, momentum=MOMENTUM), nn.ReLU()]
    return nn.Sequential(
        *stem, Block(8, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def options(mode, sync):
    """Return what `bnspec.torch.replace` is told; in one process there is nobody to join."""
    return {
        "local": {},
        "sync": {"sync": sync},
        "ghost": {"sync": sync, "virtual_batch_size": 2, "ghost_source": "merged"},
        "renorm": {"renorm": bnspec.Renorm(form="paper", rmax=1.5, dmax=0.5)},
    }[mode]


def images():
    """Return images and kinds to train on and to test with."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    kind = torch.tensor(digits.target)
    return (x[:1500], kind[:1500]), (x[1500:], kind[1500:])


def train(mode, start, rank, world, args):
    """Train a copy of a model, each rank on its samples; return the share of unseen images that it knows, by epoch."""
    model = bnspec.torch.replace(copy.deepcopy(start), **options(mode, world > 1))
    (x, kind), (unseen, wanted) = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    known = []
    for _ in range(args.epochs):
        model.train()
        order = torch.randperm(min(len(x), args.limit), generator=generator)
        for chosen in order[: len(order) // (args.samples * world) * args.samples * world].split(args.samples * world):
            mine = chosen[rank * args.samples : (rank + 1) * args.samples]
            loss = nn.functional.cross_entropy(model(x[mine]), kind[mine])
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters() if world > 1 else ():
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
            optimizer.step()
        model.eval()
        with torch.no_grad():
            known.append(float((model(unseen).argmax(1) == wanted).float().mean()))
    return known


def plot(results, world, args):
    """Draw what each mode knows after each epoch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
    for mode, known in results.items():
        axes.plot(range(1, len(known) + 1), [100 * v for v in known], marker="o", label=f"{mode}: {MODES[mode]}")
    axes.set(xlabel="epoch", ylabel="unseen digits known (%)", title=f"{world} processes, {args.samples} samples each")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")  # beside the points, not over them
    figure.savefig(args.plot, dpi=120)


def main():
    """Train once in every mode, print a line for each, and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4, help="per process and step")
    parser.add_argument("--limit", type=int, default=1500, help="images to train on")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--plot", help="write a picture to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rank, world = 0, 1
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        rank, world = dist.get_rank(), dist.get_world_size()
    start = network()
    results = {}
    for mode, what in MODES.items():
        results[mode] = train(mode, start, rank, world, args)
        if rank == 0:
            print(f"{mode:7} {100 * results[mode][-1]:5.1f} % known after {args.epochs} epochs ({what})", flush=True)
    if args.plot and rank == 0:
        plot(results, world, args)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
