"""Exact running statistics of models of torch: right, and nothing else changes."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch_jobs import HERE, torch_job  # noqa: E402 - after torch was found

from bnspec import torch as ours  # noqa: E402
from bnspec_backends.ranks import threads  # noqa: E402

SIZES = (5, 2, 1, 7)


def batches(dtype: Any = None) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, 6, 5, generator=generator, dtype=torch.float64).to(dtype or torch.float64) for n in SIZES]


def network(dropout: float = 0.5) -> Any:
    torch.manual_seed(1)
    nn = torch.nn
    first, second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 1)
    return nn.Sequential(first, nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(dropout), second, nn.BatchNorm2d(4)).double()


def inputs_of_layers(model: Any, xs: Any, groups: int | None = None) -> list[Any]:
    """All that reaches the two layers, where each batch, or group of samples, is normalized by itself."""
    found: list[list[Any]] = [[], []]
    for x in xs:
        h = model[0](x)
        found[0].append(h)
        parts = h.split(groups or len(h))
        centred = [(v - v.mean((0, 2, 3), keepdim=True)) / (v.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
                   for v in parts]  # fmt: skip
        found[1].append(model[4](torch.cat(centred).relu()))
    return [torch.cat(v).detach() for v in found]


def statistics(v: Any, correction: int) -> list[Any]:
    return [v.mean((0, 2, 3)), v.var((0, 2, 3), correction=correction)]


def exact(model: Any, xs: Any, correction: int = 1, **options: Any) -> list[Any]:
    return [s for v in inputs_of_layers(model, xs, **options) for s in statistics(v, correction)]


def running(model: Any) -> list[Any]:
    return [v for m in (model[1], model[5]) for v in (m.running_mean, m.running_var)]


def close(found: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["none", "ours", "biased", "ghost", "sync"])
def test_statistics_are_those_of_all_elements(change: str, training: bool) -> None:
    """Also of a model in evaluation, with layers that store the biased variance, and of uneven batches."""
    model, xs = network(), batches()
    correction, options = 1, {}
    if change == "biased":
        ours.replace(model, correction=0)
        correction = 0
    elif change == "ghost":
        ours.replace(model, virtual_batch_size=1)
        options = {"groups": 1}
    elif change == "sync":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif change == "ours":
        ours.replace(model)
    model.train(training)
    assert ours.precise_bn(model, iter(xs)) is model
    close(running(model), exact(model, xs, correction, **options))


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("averaging", ["exponential", "debiased", "pooled"])
def test_every_form_in_which_statistics_are_stored(averaging: str, momentum: float | None) -> None:
    options: dict[str, Any] = {"averaging": averaging, "momentum": momentum}
    module = ours.BatchNorm(2, dtype=torch.float64, **options)
    for x in batches()[:2]:
        module(x)
    before = int(module.num_batches_tracked)
    ours.precise_bn(module, batches())
    mean, var = bnspec.running_statistics(module._state(module.config), module.config)
    close([mean, var], statistics(torch.cat(batches()), 1))
    assert int(module.num_batches_tracked) == (before if momentum else len(SIZES))
    if momentum and averaging == "pooled":
        assert module.running_count.tolist() == [sum(SIZES) * 30] * 2


def test_renorm_and_a_mask() -> None:
    module = ours.BatchNorm2d(2, renorm=bnspec.Renorm(rmax=2.0, dmax=1.0), dtype=torch.float64)
    xs, mask = batches(), torch.rand(1, 1, 6, 5) < 0.5
    ours.precise_bn(module, xs, forward=lambda x: module(x, mask))
    kept = torch.cat(xs)[..., mask[0, 0]]
    close([module.running_mean, module.running_var], [kept.mean((0, 2)), kept.var((0, 2))])
    close([module.running_stddev, module.running_renorm_mean], [(kept.var((0, 2)) + 1e-5).sqrt(), kept.mean((0, 2))])


def test_a_large_mean_loses_nothing() -> None:
    """E[x^2] - mean^2 in float32 would leave no digit of the variance."""
    module = torch.nn.BatchNorm2d(2)
    xs = [x + 1e4 for x in batches(torch.float32)]
    ours.precise_bn(module, xs)
    close([module.running_mean, module.running_var], statistics(torch.cat(xs).double(), 1), 2e-7)


def test_a_layer_that_is_called_twice() -> None:
    norm = torch.nn.BatchNorm2d(2).double()
    model, xs = torch.nn.Sequential(norm, torch.nn.ReLU(), norm), batches()
    ours.precise_bn(model, xs)
    seen = [v for x in xs for v in (x, torch.nn.functional.batch_norm(x, None, None, training=True).relu())]
    close([norm.running_mean, norm.running_var], statistics(torch.cat(seen), 1))


class Careless(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module that draws random numbers, counts calls and swaps a buffer, in every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = self.calls.clone()
        return x + torch.rand_like(x)


def everything(model: Any) -> Any:
    """All that a pass may not change, besides running statistics."""
    return {
        "modes": [m.training for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
        "momentum": [getattr(m, "momentum", None) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "buffers": {k: (id(v), v._version) for k, v in model.named_buffers() if "running" not in k and "last" not in k},
        "identities": {k: id(v) for k, v in model.named_buffers()},
        "parameters": {k: (id(v), v._version, v.requires_grad) for k, v in model.named_parameters()},
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.sum().item()) for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
    }


def changed_in(model: Any, fails: bool) -> Any:
    model.train()
    model[3].eval()
    model(batches()[0]).sum().backward()
    held, numbers = everything(model), {k: v.clone() for k, v in model.state_dict().items()}

    def given() -> Iterator[Any]:
        yield from batches()
        if fails:
            raise OSError("no more data")

    if fails:
        with pytest.raises(OSError, match="no more data"):
            ours.precise_bn(model, given())
    else:
        ours.precise_bn(model, given())
    now = everything(model)
    versions = [now.pop("buffers"), held.pop("buffers")]
    assert now == held
    assert all(versions[0][k] == v for k, v in versions[1].items() if "calls" not in k)
    return {k for k, v in model.state_dict().items() if not torch.equal(v, numbers[k])}


@pytest.mark.parametrize("kind", ["torch", "ours"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_but_the_statistics_changes(kind: str, fails: bool) -> None:
    model = network()
    model.insert(2, Careless())
    if kind == "ours":
        ours.replace(model)
    written = {f"{i}.running_{s}" for i in (1, 6) for s in ("mean", "var")}
    assert changed_in(model, fails) == (set() if fails else written)


def test_a_model_that_fails_in_the_middle_is_as_it_was() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="expected 4D"):
        ours.precise_bn(model, [batches()[0], batches()[1][0]])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any("forward" in vars(m) for m in model.modules())
    assert model.training


def test_chosen_and_frozen_layers() -> None:
    model, xs = network(), batches()
    ours.replace(model)
    model[1].frozen = True
    ours.precise_bn(model, xs)
    assert model[1].running_mean.abs().sum() == 0
    assert model[5].running_mean.abs().sum() > 0
    model = network()
    ours.precise_bn(model, xs, modules=[model[1]])
    assert model[1].running_mean.abs().sum() > 0
    assert model[5].running_mean.abs().sum() == 0


def test_models_in_half_precision_and_compiled_ones() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2)).bfloat16()
    ours.precise_bn(model, batches(torch.bfloat16))
    assert model[0].running_var.dtype == torch.bfloat16
    if hasattr(torch.compiler, "set_stance"):
        model = network(0.0)
        compiled = torch.compile(model, backend="eager")
        compiled(batches()[0])
        ours.precise_bn(compiled, batches())
        close(running(model), exact(model, batches()))


class Another(torch.nn.BatchNorm2d):  # type: ignore[misc, name-defined]
    """A class of somebody else, such as one that stores the biased variance."""


@pytest.mark.parametrize(
    ("model", "data", "text"),
    [
        (lambda: torch.nn.Sequential(torch.nn.ReLU()), batches, "a Sequential without running statistics.*BN-RUN-9"),
        (lambda: ours.BatchNorm2d(2, frozen=True), batches, "without running statistics"),
        (lambda: torch.nn.Sequential(Another(2)), batches, "0: a Another; expected .*modules= .*"),
        (lambda: torch.nn.Sequential(torch.nn.LazyBatchNorm2d()), batches, "before its first input; .*BN-SHAPE-4"),
        (network, list, "1: precise statistics of no element; .*BN-RUN-9"),
        (lambda: torch.nn.BatchNorm2d(2), lambda: [torch.ones(1, 2, 1, 1)], "of 1 element in channels .*BN-RUN-4"),
    ],
)
def test_models_that_are_refused(model: Callable[[], Any], data: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        ours.precise_bn(model(), data())


def test_layers_that_are_refused() -> None:
    model = network()
    for wrong in (torch.nn.BatchNorm2d(3), model[0], torch.nn.BatchNorm2d(3, track_running_stats=False)):
        with pytest.raises(TypeError, match=r"\[BN-ERR-5\]\. Say by modules="):
            ours.precise_bn(model, batches(), modules=[wrong])


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_uneven_ranks_are_one_process() -> None:
    """Layers of torch and ours that synchronize, and plain ones; a rank undoes no correction by its own count."""
    done, _ = torch_job(2, HERE / "precise_ranks.py")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found.pop("same bits")
    assert set(found) == {"torch's SyncBatchNorm", "ours", "ours, ranks alike", "plain, no batch on the last rank"}
    assert max(found.values()) < 1e-12, found


def test_a_rank_that_fails_changes_no_rank() -> None:
    """The ranks meet after the pass: of one that is missing the others hear, and write nothing."""
    models = [network() for _ in range(2)]
    before = copy.deepcopy(models[0].state_dict())

    def given(rank: int) -> Iterator[Any]:
        yield batches()[rank]
        if rank:
            raise OSError("no more data")

    def rank(comm: bnspec.Communicator) -> str:
        try:
            ours.precise_bn(models[comm.rank], given(comm.rank), sync=comm)
        except (OSError, bnspec.CommunicatorError) as error:
            return type(error).__name__
        return "done"

    found = threads.run(2, rank, deadline=5.0)
    assert found[0] in ("CommunicatorError", "CollectiveTimeout")
    assert found[1] == "OSError"
    for model in models:
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
