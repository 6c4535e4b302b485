"""bnspec's modules in the hands of what else torch has for modules: pruning, replicas, meta tensors, ensembles."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn.utils import parametrizations, prune  # noqa: E402 - after torch was found

from bnspec import torch as ours  # noqa: E402

X = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def _pruned(module: Any) -> None:
    prune.l1_unstructured(module, "weight", 1)


def _weight_norm(module: Any) -> None:
    torch.nn.utils.weight_norm(module, "weight", dim=None)


def _spectral_norm(module: Any) -> None:
    parametrizations.spectral_norm(module, "weight")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("tool", [_pruned, _weight_norm, _spectral_norm])
def test_parameters_may_be_made_of_others(tool: Callable[[Any], None]) -> None:
    """torch takes the parameter away and sets a tensor in its place; the gradients reach what it is made of."""
    torch.manual_seed(0)
    theirs: Any = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        theirs.weight.uniform_()
    module = ours.replace(copy.deepcopy(theirs))
    found = []
    for one in (module, theirs):
        torch.manual_seed(0)
        tool(one)
        y = one(X)
        (y**3).sum().backward()
        found.append((y, {name: p.grad for name, p in one.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_an_option_that_is_refused_leaves_a_pruned_module_as_it_was() -> None:
    module = ours.BatchNorm2d(3)
    _pruned(module)
    with pytest.raises(ValueError, match="momentum"):
        module.momentum = 2.0
    assert module.momentum == 0.1
    prune.remove(module, "weight")
    assert isinstance(module.weight, torch.nn.Parameter)
    assert module.config.scale


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}])
def test_replicas_as_data_parallel_makes_them(options: dict[str, Any]) -> None:
    """A replica gets its parameters and buffers as tensors, one by one, after it was made without them."""
    module = ours.BatchNorm2d(3, **options)
    replica: Any = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        if parameter is None:
            replica._parameters[name] = None
        else:
            setattr(replica, name, parameter * 1)
    for name, buffer in module.named_buffers():
        setattr(replica, name, buffer.clone())
    y = replica(X)
    if list(module.parameters()):
        y.pow(3).sum().backward()
    assert torch.equal(y, copy.deepcopy(module)(X))
    assert replica.config == module.config
    assert all(p.grad is not None for p in module.parameters())


def test_weights_that_are_assigned_keep_their_statistics_wide() -> None:
    """A model of torch in 16 bits has its statistics in 16 bits; `assign` takes the very tensors."""
    with torch.device("meta"):
        module = ours.BatchNorm2d(3)
    module.load_state_dict(torch.nn.BatchNorm2d(3).half().state_dict(), assign=True)
    assert (module.weight.dtype, module.running_mean.dtype) == (torch.float16, torch.float32)
    assert module(X.half()).dtype == torch.float16


def test_statistics_that_are_not_to_be_tracked_for_a_while() -> None:
    """Virtual adversarial training turns `track_running_stats` off and on around its own forward passes."""
    module, theirs = ours.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for one in (module, theirs):
        one(X)
        one.track_running_stats = False
        one(X * 3)
        one.track_running_stats = True
    torch.testing.assert_close(module.running_var, theirs.running_var)
    assert module.num_batches_tracked == theirs.num_batches_tracked == 1


def test_modules_without_a_counter() -> None:
    """Modules from before torch counted have none."""
    module = ours.BatchNorm2d(3)
    module.num_batches_tracked = None
    module(X)
    ours.replace(module, renorm=bnspec.Renorm(rmax=1.5, dmax=0.5))(X)
    ours.restore(module)
    ours.replace(module)
    module.momentum = None
    with pytest.raises(ValueError, match=r"num_batches_tracked=None.*BN-RUN-2"):
        module(X)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("training", [False, True])
def test_half_of_the_statistics_is_refused(name: str, training: bool) -> None:
    module = ours.BatchNorm2d(3).train(training)
    setattr(module, name, None)
    with pytest.raises(ValueError, match=rf"the state has no {name[8:]}.*BN-RUN-2"):
        module(X)


def test_ensembles() -> None:
    """Stacked modules are one call of vmap, and the statistics of each move."""
    modules = [ours.BatchNorm2d(3) for _ in range(4)]
    for i, module in enumerate(modules):
        torch.nn.init.constant_(module.weight, i)
    params, buffers = torch.func.stack_module_state(modules)
    base = copy.deepcopy(modules[0]).to("meta")

    def call(params: Any, buffers: Any, x: Any) -> Any:
        return torch.func.functional_call(base, (params, buffers), (x,))

    ys = torch.func.vmap(call, (0, 0, None))(params, buffers, X)
    for i, module in enumerate(modules):
        torch.testing.assert_close(ys[i], module(X))
        torch.testing.assert_close(buffers["running_var"][i], module.running_var)
    assert buffers["num_batches_tracked"].tolist() == [1] * 4


def test_a_lazy_module_may_begin_in_inference_mode() -> None:
    module = ours.LazyBatchNorm2d(virtual_batch_size=2)
    with torch.inference_mode():
        module(X)
    module(X.clone().requires_grad_()).sum().backward()
    assert module.weight.grad is not None


def test_lazy_modules_that_wait_for_nothing() -> None:
    """Weights may be loaded before the first call, which is checked against them; and there may be none."""
    module, trained = ours.LazyBatchNorm2d(), ours.BatchNorm2d(3)
    trained(X)
    module.load_state_dict(trained.state_dict())
    with pytest.raises(ValueError, match=r"5 channels on axis 1.*num_features=3.*BN-SHAPE-4"):
        copy.deepcopy(module)(torch.randn(2, 5, 2, 2))
    assert torch.equal(module(X), trained(X))
    bare = ours.LazyBatchNorm2d(affine=False, track_running_stats=False)
    assert torch.equal(bare(X), ours.BatchNorm2d(3, affine=False, track_running_stats=False)(X))


STRANGE: dict[str, tuple[Callable[[], Any], str]] = {
    "an array": (lambda: X.numpy(), "input is a ndarray; expected a torch.Tensor.*BN-SHAPE-5"),
    "nothing": (lambda: None, "input is a NoneType"),
    "nested": (lambda: torch.nested.nested_tensor([X[0], X[0, :2]], layout=torch.jagged), "nested tensor.*BN-SHAPE-5"),
    "sparse": (lambda: X.to_sparse(), "torch.sparse_coo.*BN-SHAPE-5"),
    "masked": (lambda: torch.masked.masked_tensor(X, X > 0), "MaskedTensor.*BN-MASK-7.*get_mask"),
    "complex": (lambda: X.to(torch.complex64), "complex64.*BN-SHAPE-5"),
    "meta": (lambda: X.to("meta"), "x is on meta and gamma on cpu.*BN-ERR-3"),
}


@pytest.mark.filterwarnings("ignore:.*(MaskedTensors|nested tensors).*:UserWarning")
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_dense_tensor_is_refused(name: str) -> None:
    module, (given, text) = ours.BatchNorm2d(3), STRANGE[name]
    with pytest.raises((TypeError, ValueError), match=text):
        module(given())
    assert module.num_batches_tracked == 0
