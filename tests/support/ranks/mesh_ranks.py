"""bnspec on tensors over a mesh of processes, beside the whole tensors in one process: how far apart, as JSON."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

import bnspec
import bnspec.torch

CONFIG = bnspec.dialects.torch.config()


def training(x: Any, params: Any) -> list[Any]:
    """y, the batch's mean, and the gradients of a sum of cubes."""
    x, params = x.requires_grad_(), bnspec.Params(*(v.requires_grad_() for v in params))
    y, stats, _ = bnspec.batch_norm(x, params, CONFIG)
    return [y, stats.mean, *torch.autograd.grad((y**3).sum(), (x, *params))]


def module_step(module: Any, x: Any) -> list[Any]:
    """y, and the buffers that moved."""
    return [module(x), module.running_mean, module.running_var]


def apart(found: list[Any], wanted: list[Any]) -> float:
    """Return the largest difference, each beside the largest number it belongs to."""
    whole = [(v.full_tensor().detach(), w.detach()) for v, w in zip(found, wanted, strict=True)]
    return max(float((v - w).abs().max() / w.abs().max()) for v, w in whole)


def over(v: Any, mesh: Any, place: Any) -> Any:
    """Return a tensor placed over the mesh, a leaf of its own."""
    spread: Any = distribute_tensor(v.detach().clone(), mesh, [place])
    return spread


def main() -> None:
    """Compare for each placement, and say on the first rank what a mixed call is told."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 3, 3, generator=generator, dtype=torch.float64) + 5
    params = bnspec.Params(torch.rand(4, dtype=torch.float64, generator=generator), torch.ones(4, dtype=torch.float64))
    worst: dict[str, Any] = {}
    for name, place in {"samples": Shard(0), "channels": Shard(1), "copies": Replicate()}.items():
        spread = bnspec.Params(*(over(v, mesh, Replicate()) for v in params))
        found, wanted = training(over(x, mesh, place), spread), training(x.clone(), params)
        worst[name] = apart(found, wanted)
        module, alone = (bnspec.torch.BatchNorm2d(4, dtype=torch.float64) for _ in range(2))
        distribute_module(module, mesh)
        worst[f"module, {name}"] = apart(module_step(module, over(x, mesh, place)), module_step(alone, x))
        try:
            bnspec.batch_norm(over(x, mesh, place), params, CONFIG)
        except TypeError as error:
            worst["refusal"] = str(error)
    if dist.get_rank() == 0:
        print(json.dumps(worst))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
