"""bnspec's modules for torch: at home in a model, and in torch's own tools for models."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec import torch as ours  # noqa: E402 - after torch was found

X = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
RENORM = bnspec.Renorm(rmax=1.5, dmax=0.5)

#: Options that change what is computed, each with the buffers that it adds.
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, set()),
    "ghost": ({"virtual_batch_size": 2, "ghost_source": "mean"}, set()),
    "renorm": ({"renorm": RENORM}, {"running_stddev", "running_renorm_mean", "running_renorm_stddev"}),
    "cumulative": ({"momentum": None}, set()),
    "debiased": ({"averaging": "debiased"}, {"running_count"}),
    "pooled": ({"averaging": "pooled"}, {"running_count"}),
}


def by_functions(module: Any, x: Any, steps: int, mask: Any = None) -> tuple[Any, bnspec.RunningState]:
    """What bnspec's functions make of the same steps from a fresh state."""
    config = module.config
    params, state = bnspec.init(config, channels=3, like=x)
    for i in range(steps):
        y, stats, _ = bnspec.batch_norm(x * (i + 1), params, config, state=state, mask=mask)
        state = bnspec.update_running(state, stats, config)
    return y, state


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_module_computes_what_the_functions_compute(name: str, masked: bool) -> None:
    options, extras = OPTIONS[name]
    module = ours.BatchNorm2d(3, **options)
    mask = torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.3 if masked else None
    for i in range(3):
        y = module(X * (i + 1), mask)
    want, state = by_functions(module, X, 3, mask)
    assert torch.equal(y, want)
    held = {k: v for k, v in module.named_buffers() if k != "num_batches_tracked"}
    names = {"mean": "running_mean", "var": "running_var", "count": "running_count"}
    if name == "cumulative":
        assert int(module.num_batches_tracked) == int(state.count[0]) == 3
        state = state._replace(count=None)
    wanted = {names.get(k, f"running_{k}"): v for k, v in state._asdict().items() if v is not None}
    assert held.keys() == wanted.keys() == {"running_mean", "running_var"} | extras
    assert all(torch.equal(held[k], wanted[k]) for k in held)
    module.eval()
    inferred = bnspec.batch_norm_inference(X, bnspec.Params(module.weight, module.bias), module._state(module.config),
                                           module.config)[0]  # fmt: skip
    assert torch.equal(module(X), inferred)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_state_dicts_go_both_ways(rank: int) -> None:
    theirs: Any = getattr(torch.nn, f"BatchNorm{rank}d")(3)
    module = getattr(ours, f"BatchNorm{rank}d")(3)
    assert isinstance(module, type(theirs))
    x = torch.randn(5, 3, *([4] * rank))
    for _ in range(3):
        theirs(x)
    with torch.no_grad():
        theirs.weight.uniform_()
    module.load_state_dict(theirs.state_dict(), strict=True)
    back = type(theirs)(3)
    back.load_state_dict(module.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), theirs.state_dict().values(), strict=True))
    for mode in (True, False):
        torch.testing.assert_close(module.train(mode)(x), theirs.train(mode)(x))
        torch.testing.assert_close(module.running_var, theirs.running_var)
    assert module.num_batches_tracked == theirs.num_batches_tracked


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_statistics_stay_wide_where_a_module_goes_to_16_bits(kind: Any) -> None:
    module = ours.BatchNorm2d(3)
    module(X)
    before = module.running_var.clone()
    module.to(kind)
    assert module.weight.dtype == kind
    assert torch.equal(module.running_var, before)
    y = module(X.to(kind))
    assert (y.dtype, module.running_var.dtype) == (kind, torch.float32)
    assert module.float().weight.dtype == torch.float32
    assert module.double().running_mean.dtype == torch.float64
    assert ours.BatchNorm2d(3, dtype=kind).running_mean.dtype == torch.float32


def test_untracked_affine_and_bias() -> None:
    module = ours.BatchNorm2d(3, track_running_stats=False, affine=False)
    assert not list(module.buffers())
    assert not list(module.parameters())
    assert torch.equal(module(X), module.eval()(X))
    module.reset_running_stats()
    assert [n for n, _ in ours.BatchNorm2d(3, bias=False).named_parameters()] == ["weight"]


def test_frozen_normalizes_by_running_statistics_while_training() -> None:
    module = ours.BatchNorm2d(3, frozen=True)
    module.running_mean.fill_(2.0)
    x = X.clone().requires_grad_()
    y = module(x)
    assert torch.equal(y, module.eval()(x))
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, torch.full_like(dx, (1 + module.eps) ** -0.5))
    assert module.num_batches_tracked == 0


def test_any_axis() -> None:
    module, first = ours.BatchNorm(5, axis=-1, virtual_batch_size=3), ours.BatchNorm(5, virtual_batch_size=3)
    assert torch.equal(module(X), first(X.movedim(-1, 1)).movedim(1, -1))
    assert torch.equal(module.running_var, first.running_var)


@pytest.mark.parametrize("options", [{}, {"renorm": RENORM}, {"averaging": "debiased", "bias": False}])
def test_lazy_modules_become_the_others(options: dict[str, Any]) -> None:
    lazy, module = ours.LazyBatchNorm2d(**options), ours.BatchNorm2d(3, **options)
    assert torch.equal(lazy(X), module(X))
    assert type(lazy) is ours.BatchNorm2d
    assert list(lazy.state_dict()) == list(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(lazy.buffers(), module.buffers(), strict=True))


def test_copies_and_pickles_hold_no_batch() -> None:
    module = ours.BatchNorm2d(3, renorm=RENORM)
    module(X.clone().requires_grad_()).sum().backward()
    assert len(pickle.dumps(module)) < 20_000
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(X), copy.deepcopy(module)(X))
        assert other.config == module.config


class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two layers that are one module, a hook's place, and a reference from outside the tree."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(3)
        self.again = self.bn
        self.sync = torch.nn.SyncBatchNorm(3)
        self.others = [self.bn]

    def forward(self, x: Any) -> Any:
        return self.again(self.bn(x))


def test_replace_keeps_every_reference() -> None:
    model, seen = Model(), []
    model(X)
    model.bn.register_forward_hook(lambda *given: seen.append(1))
    parameters = {id(p) for p in model.parameters()}
    before = copy.deepcopy(model.state_dict())
    assert ours.replace(model, virtual_batch_size=2) is model
    assert type(model.bn) is ours.BatchNorm2d
    assert model.again is model.bn is model.others[0]
    assert model.sync.sync is True
    assert {id(p) for p in model.parameters()} == parameters
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    model(X)
    assert seen == [1, 1]
    ours.replace(model, renorm=RENORM)  # options of modules that are ours already
    torch.testing.assert_close(model.bn.running_stddev, (model.bn.running_var + model.bn.eps).sqrt())
    ours.restore(model)
    assert (type(model.bn), type(model.sync)) == (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
    assert list(model.state_dict()) == list(before)
    assert model.bn(X).shape == X.shape
    assert model.sync.process_group is None


def test_replace_takes_a_lone_module_and_leaves_strangers() -> None:
    class Activated(torch.nn.BatchNorm2d):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return super().forward(x).relu()

    assert type(ours.replace(torch.nn.BatchNorm1d(3))) is ours.BatchNorm1d
    model = torch.nn.Sequential(Activated(3), torch.nn.LazyBatchNorm2d())
    with pytest.warns(UserWarning, match="Activated were left as they are"):
        ours.replace(model)
    assert type(model[0]) is Activated
    model(X)
    assert type(model[1]) is ours.BatchNorm2d


def test_what_cannot_be_replaced_changes_nothing() -> None:
    model = Model()
    model(X)
    for options, text in (
        ({"averaging": "pooled"}, "has seen 2 batches.*BN-RUN-6"),
        ({"ghost_source": "all"}, "ghost_source"),
        ({"virtual_batchsize": 2}, "virtual_batchsize.*BN-ERR-5"),
        ({"sync": 3}, "sync is a int.*BN-SYNC-9"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            ours.replace(model, **options)
        assert type(model.bn) is torch.nn.BatchNorm2d
    with pytest.raises(ValueError, match=r"axis=-1.*BN-SHAPE-2"):
        ours.restore(torch.nn.Sequential(ours.BatchNorm2d(3), ours.BatchNorm(3, axis=-1)))


def test_torch_tools_know_the_modules() -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), ours.BatchNorm2d(3))
    torch.optim.swa_utils.update_bn([X, X + 1], model)
    both = torch.cat([model[0](X), model[0](X + 1)])
    torch.testing.assert_close(model[1].running_mean, both.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert model[1].momentum == 0.1
    model.eval()
    torch.testing.assert_close(fuse_conv_bn_eval(model[0], model[1])(X), model(X), rtol=1e-4, atol=1e-5)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged(X), model(X))
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(ours.BatchNorm2d(3, virtual_batch_size=2))
    assert type(converted) is torch.nn.SyncBatchNorm  # and no ghost groups any more
    assert "virtual_batch_size=2" in repr(ours.BatchNorm2d(3, virtual_batch_size=2))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_module_moves_once(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    module, other = ours.BatchNorm2d(3), ours.BatchNorm2d(3)
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    (checkpoint(module, x, use_reentrant=reentrant) ** 3).sum().backward()
    (other(y) ** 3).sum().backward()
    assert int(module.num_batches_tracked) == 1
    assert torch.equal(module.running_var, other.running_var)
    assert torch.equal(x.grad, y.grad)


def test_functional_transforms() -> None:
    """vmap moves a state for each part of the batch; a state from outside is refused, and stays."""
    module = ours.BatchNorm1d(3)
    xs, params = torch.randn(4, 8, 3), dict(module.named_parameters())
    buffers = {k: v.expand(4, *v.shape).clone() for k, v in module.named_buffers()}

    def call(buffers: Any, x: Any) -> Any:
        y = torch.func.functional_call(module, (params, buffers), (x,))
        return y, buffers

    ys, moved = torch.func.vmap(call)(buffers, xs)
    for i, x in enumerate(xs):
        own = ours.BatchNorm1d(3)
        torch.testing.assert_close(ys[i], own(x))
        torch.testing.assert_close(moved["running_var"][i], own.running_var)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: module(x).sum())(xs[0])
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values(), strict=True))
    module.eval()
    torch.testing.assert_close(torch.func.grad(lambda x: module(x).sum())(xs[0]), torch.ones(8, 3) / (1 + 1e-5) ** 0.5)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "channels": (lambda: ours.BatchNorm2d(4)(X), r"3 channels on axis 1.*num_features=4.*BN-SHAPE-4"),
    "rank": (lambda: ours.BatchNorm1d(3)(X), "expected 2D or 3D input"),
    "no such axis": (lambda: ours.BatchNorm(3, axis=7)(X), "axis=7.*BN-SHAPE-2"),
    "rank 1": (lambda: ours.BatchNorm(3)(X[0, 0, 0]), "BN-SHAPE-1"),
    "unknown option": (lambda: ours.BatchNorm2d(3, ghost=2), "with ghost.*BN-ERR-5"),
    "integers": (lambda: ours.BatchNorm2d(3)(X.long()), "BN-SHAPE-5"),
    "groups that do not divide": (lambda: ours.BatchNorm2d(3, virtual_batch_size=4)(X), "BN-GRP-3"),
    "renorm without state": (
        lambda: ours.BatchNorm2d(3, renorm=RENORM, track_running_stats=False)(X), "BN-RENORM"),
    "counter of channels": (
        lambda: ours.BatchNorm2d(3, momentum=None)(X, torch.ones(1, 3, 1, 1, dtype=torch.bool)), "BN-MASK-8"),
    "counter of skipped channels": (lambda: ours.BatchNorm2d(3, momentum=None, nonfinite="skip"), "BN-RUN-10"),
    "a pickle of a group": (lambda: pickle.dumps(ours.BatchNorm2d(3, sync=Group())), "BN-STATE-2"),
}  # fmt: skip


class Group:
    """Something that joins."""

    rank, size = 0, 1

    def all_reduce(self, payload: Any, combine: Any, signature: Any) -> Any:
        return payload


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_to_do(name: str) -> None:
    call, text = BAD[name]
    with pytest.raises((TypeError, ValueError), match=text):
        call()


def test_options_may_be_set_and_are_refused_as_a_whole() -> None:
    module = ours.BatchNorm2d(3)
    module.momentum, module.eps, module.virtual_batch_size = 0.25, 0.5, 2
    assert (module.config.decay, module.config.epsilon, module.config.virtual_batch_size) == (0.75, 0.5, 2)
    with pytest.raises(ValueError, match="momentum"):
        module.momentum = 2.0
    assert (module.momentum, module.config.decay) == (0.25, 0.75)
    module.weight = None
    assert module.config.scale is False


def test_one_value_moves_nothing() -> None:
    module = ours.BatchNorm1d(3)
    with pytest.raises(ValueError, match="BN-RUN-4"):
        module(torch.ones(1, 3))
    assert int(module.num_batches_tracked) == 0
    assert torch.equal(module.running_var, torch.ones(3))


def test_ranks_share_by_sync() -> None:
    """By a communicator and by a name; a copy is of the same ranks, and one rank's evaluation asks nobody."""
    from bnspec_backends.ranks import threads

    whole = ours.BatchNorm2d(3)
    want = whole(X)

    def rank(comm: Any, name: bool) -> Any:
        module = copy.deepcopy(ours.BatchNorm2d(3, sync="threads" if name else comm))
        y = module(X[:2] if comm.rank == 0 else X[2:])
        if comm.rank == 0:
            module.eval()(X)
        return y, module.running_var

    for name in (False, True):
        found = threads.run(2, lambda comm, name=name: rank(comm, name))
        torch.testing.assert_close(torch.cat([y for y, _ in found]), want)
        assert all(torch.equal(var, whole.running_var) for _, var in found)
