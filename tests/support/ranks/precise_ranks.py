"""Exact running statistics in a job over gloo, beside a recomputation over all ranks' data: how far apart, as JSON."""

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

import bnspec.torch

#: Samples of each batch, by rank.
SIZES = ((4, 1, 3), (2, 6, 1))


def network() -> Any:
    """Return two layers, the second behind the first."""
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()


def statistics(model: Any, parts: Sequence[Any], weighting: str = "count") -> list[Any]:
    """Mean and variance of what reaches the layers; each part is a list of what ranks normalize together."""
    first, second = [], []
    for part in parts:
        x = torch.cat(list(part))
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        if weighting == "rank":
            means = [v.mean((0, 2, 3)) for v in part]
            mean = sum(means) / len(part)
            var = sum(v.var((0, 2, 3), correction=0) + (m - mean) ** 2 for v, m in zip(part, means, strict=True))
            var = var / len(part)
        y = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        first.append(x)
        second.append(model[2](y.relu()).detach())
    return [s for v in map(torch.cat, (first, second)) for s in (v.mean((0, 2, 3)), v.var((0, 2, 3)))]


def main() -> None:
    """Compute on every rank, and compare on the first."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    data = [[torch.randn(n, 2, 5, 4, generator=generator, dtype=torch.float64) + 3 for n in sizes] for sizes in SIZES]
    steps, alone = list(zip(*data, strict=True)), [[x] for x in data[0]]
    sync: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
    replace, precise = bnspec.torch.replace, bnspec.torch.precise_bn
    none = data[rank] if rank == 0 else []
    alike = replace(network(), sync=True, sync_weighting="rank")
    cases: dict[str, Any] = {
        "torch's SyncBatchNorm": (sync(network()), data[rank], {}, statistics(network(), steps)),
        "ours": (replace(network(), sync=True), data[rank], {}, statistics(network(), steps)),
        "ours, ranks alike": (alike, data[rank], {}, statistics(network(), steps, "rank")),
        "plain, no batch on the last rank": (network(), none, {"sync": True}, statistics(network(), alone)),
    }
    worst: dict[str, Any] = {"same bits": True}
    for name, (model, batches, options, wanted) in cases.items():
        precise(model, batches, **options)
        found = [v for m in (model[0], model[3]) for v in (m.running_mean, m.running_var)]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, found)
        worst["same bits"] &= all(torch.equal(a, b) for other in gathered for a, b in zip(other, found, strict=True))
        worst[name] = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    if rank == 0:
        print(json.dumps(worst))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
