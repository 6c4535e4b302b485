"""A module of bnspec.torch in a job over gloo, beside one process on the whole batch: how far apart, as JSON."""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist

import bnspec.torch


def step(module: Any, x: Any, w: Any) -> list[Any]:
    """y, dx, dgamma, and the gradients of |dx|^2 by x and gamma."""
    x = x.clone().requires_grad_()
    y = module(x)
    dx, dgamma = torch.autograd.grad((y**3 * w).sum(), (x, module.weight), create_graph=True)
    return [v.detach() for v in (y, dx, dgamma, *torch.autograd.grad((dx**2 * w).sum(), (x, module.weight)))]


def main() -> None:
    """Split the batch by the sizes given, run on every rank, and compare on the first."""
    sizes = list(map(int, sys.argv[1].split("-")))
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, sum(sizes), 4, 5, generator=generator, dtype=torch.float64)
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank])
    module = bnspec.torch.BatchNorm1d(4, sync=True, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 1.5]))
    found = [*step(module, x[part] + 3, w[part]), module.running_mean, module.running_var]
    group = dist.new_group([0, 1])  # ranks beyond it make no communicator of it
    if rank < 2:
        small = bnspec.torch.BatchNorm1d(4, sync=group, dtype=torch.float64)
        small(x[part])
        found.append(small.running_mean)
    parts: list[Any] = [None] * len(sizes)
    dist.all_gather_object(parts, found)
    if rank == 0:
        alone = torch.nn.BatchNorm1d(4, dtype=torch.float64)
        alone.load_state_dict(module.state_dict())
        alone.reset_running_stats()
        want = [*step(alone, x + 3, w), alone.running_mean, alone.running_var]
        names = ("y", "dx", "dgamma", "ddx", "ddgamma", "mean", "var")
        together = [torch.cat, torch.cat, sum, torch.cat, sum, *[lambda v: v[0]] * 2]
        worst: dict[str, Any] = {}
        for i, (name, join) in enumerate(zip(names, together, strict=True)):
            got = join([each[i] for each in parts])
            worst[name] = float((got - want[i]).abs().max() / want[i].abs().max())
        worst["same bits"] = all(torch.equal(each[i], parts[0][i]) for each in parts for i in (5, 6))
        both = x[: sizes[0] + sizes[1]].mean((0, 2)) * 0.1
        worst["part"] = float((parts[1][7] - both).abs().max())
        print(json.dumps(worst))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
