"""What torch records of bnspec's modules and functions: operators that compute, for other inputs too."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec import torch as ours  # noqa: E402 - after torch was found

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),  # of torch about itself
]

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(8, 4, 6, 5, generator=GENERATOR)
OTHERS = (X, torch.randn(6, 4, 3, 3, generator=GENERATOR) * 3 + 1, X[:4])
MASK = torch.rand(8, 1, 6, 5, generator=GENERATOR) > 0.3
CONFIG = bnspec.dialects.torch.config()
PARAMS, STATE = bnspec.init(CONFIG, channels=4, like=X)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pair(**options: Any) -> tuple[Any, Any]:
    """Two modules with the same parameters."""
    module = ours.BatchNorm2d(4, **options)
    torch.nn.init.uniform_(module.weight, generator=torch.Generator().manual_seed(1))
    return module, copy.deepcopy(module)


def step(module: Any, call: Any, x: Any, **more: Any) -> list[Any]:
    """Return y, the gradients, and the buffers after a step."""
    x = x.clone().requires_grad_()
    y = call(x, **more)
    (y**3).sum().backward()
    found = [y.detach(), x.grad, module.weight.grad.clone(), module.bias.grad.clone()]
    module.weight.grad = module.bias.grad = None
    return [*found, *(b.clone() for b in module.buffers())]


def equal(found: list[Any], wanted: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def compiled(call: Any, **more: Any) -> Any:
    """The whole as one graph, which aot_eager runs as it is."""
    return torch.compile(call, fullgraph=True, backend="aot_eager", **more)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ghost": {"virtual_batch_size": 2, "ghost_source": "merged"},
    "renorm": {"renorm": bnspec.Renorm(rmax=1.5, dmax=0.5)},
    "cumulative": {"momentum": None},
    "debiased": {"averaging": "debiased"},
    "watched": {"nonfinite": "raise"},
    "frozen": {"frozen": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_compiled_training_step_has_the_bits_of_the_eager_one(name: str) -> None:
    module, eager = pair(**OPTIONS[name])
    call = compiled(module)
    for x in OTHERS:
        assert equal(step(module, call, x), step(eager, eager, x))


@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 2}])
def test_shapes_may_be_symbols(options: dict[str, Any]) -> None:
    module, eager = pair(**options)
    call = compiled(module, dynamic=True)
    for x in OTHERS:
        assert equal(step(module, call, x), step(eager, eager, x))


@pytest.mark.parametrize("more", [{"mask": MASK}, {"lengths": torch.tensor([1, 2, 3, 4, 5, 6, 6, 2])}])
def test_masks_and_lengths(more: dict[str, Any]) -> None:
    module, eager = pair()
    assert equal(step(module, compiled(module), X, **more), step(eager, eager, X, **more))


def test_evaluation_and_options_that_were_set() -> None:
    module, eager = pair()
    for each in (module, eager):
        each.momentum = 0.3
    assert equal(step(module, compiled(module), X), step(eager, eager, X))
    module.eval(), eager.eval()
    assert equal(step(module, compiled(module), X), step(eager, eager, X))


def test_channels_last_is_kept() -> None:
    module, eager = pair()
    x = X.contiguous(memory_format=torch.channels_last)
    y = compiled(module)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, eager(x))


def test_the_functions() -> None:
    def training(x: Any, params: Any, state: Any) -> Any:
        y, stats, saved = bnspec.batch_norm(x, params, CONFIG)
        state = bnspec.update_running(state, stats, CONFIG)
        return [y, state.mean, state.var, *bnspec.batch_norm_vjp(y * y, saved)]

    def inference(x: Any, params: Any, state: Any) -> Any:
        y, saved = bnspec.batch_norm_inference(x, params, state, CONFIG)
        return [y, *bnspec.batch_norm_vjp(y, saved)]

    for f in (training, inference):
        assert equal(compiled(f)(X, PARAMS, STATE), f(X, PARAMS, STATE))


def test_a_refusal_by_values_comes_when_the_graph_runs() -> None:
    module, _ = pair(nonfinite="raise")
    call = compiled(module)
    call(X)
    before = module.running_mean.clone()
    with pytest.raises(FloatingPointError, match="BN-RUN-10"):
        call(torch.full_like(X, torch.inf))
    assert torch.equal(module.running_mean, before)


@pytest.mark.parametrize("bad", [-1, 7])
def test_lengths_are_looked_at_when_the_graph_runs(bad: int) -> None:
    call = compiled(ours.BatchNorm2d(4))
    lengths = torch.tensor([1, 2, 3, 4, 5, 6, 6, 2])
    call(X, lengths=lengths)
    lengths[0] = bad
    with pytest.raises(ValueError, match="BN-MASK-9"):
        call(X, lengths=lengths)


def test_a_refusal_by_shape_comes_when_it_is_compiled() -> None:
    call = compiled(ours.BatchNorm2d(4, virtual_batch_size=3))
    with pytest.raises(Exception, match="BN-GRP-3"):
        call(X)


@pytest.mark.parametrize("what", ["function", "module"])
def test_the_first_call_of_a_process_may_be_compiled(what: str) -> None:
    """Nothing of bnspec has looked for kernels yet, and torch's backend was not imported."""
    program = (
        "import torch, bnspec\n"
        "x = torch.randn(4, 3, 5)\n"
        "config = bnspec.dialects.torch.config()\n"
        "params = bnspec.Params(torch.ones(3), torch.zeros(3))\n"
    )
    call = "lambda x: bnspec.batch_norm(x, params, config)[0]"
    if what == "module":
        program, call = program + "import bnspec.torch\n", "bnspec.torch.BatchNorm1d(3)"
    program += (
        f"y = torch.compile({call}, fullgraph=True, backend='aot_eager')(x)\n"
        "assert torch.equal(y, bnspec.batch_norm(x, params, config)[0])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def targets(graph: Any) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_exported_in_evaluation_is_torch_s_own(strict: bool) -> None:
    module, eager = pair()
    module(OTHERS[1])
    module.eval()
    eager.load_state_dict(module.state_dict())
    shapes = ({0: torch.export.Dim("n", min=2)},)
    program = torch.export.export(module, (X,), dynamic_shapes=shapes, strict=strict)
    assert [t for t in targets(program.graph) if "detach" not in t] == ["aten.batch_norm.default"]
    torch.testing.assert_close(program.module()(X[:3]), eager.eval()(X[:3]), rtol=1e-5, atol=1e-5)


def test_axes_and_missing_parameters_in_what_is_exported() -> None:
    module = ours.BatchNorm(5, axis=-1, bias=False).eval()
    program = torch.export.export(module, (X,))
    torch.testing.assert_close(program.module()(X), module(X), rtol=1e-5, atol=1e-5)
    debiased = ours.BatchNorm2d(4, averaging="debiased")
    debiased(X)
    program = torch.export.export(debiased.eval(), (X,))
    torch.testing.assert_close(program.module()(X), debiased(X), rtol=1e-5, atol=1e-5)


def test_what_is_exported_in_training_moves_its_statistics() -> None:
    module, eager = pair()
    program = torch.export.export(module.train(), (X,))
    assert {"bnspec.batch_norm.default", "bnspec.update.default"} <= set(targets(program.graph))
    found = program.module()
    assert torch.equal(found(X), eager(X))
    assert torch.equal(dict(found.named_buffers())["running_var"], eager.running_var)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(mode: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def f(x: Any, gamma: Any) -> Any:
        x = x.detach().requires_grad_()
        y = bnspec.batch_norm(x, bnspec.Params(gamma, torch.zeros_like(gamma)), CONFIG)[0]
        return torch.autograd.grad((y**3).sum(), x)[0]

    other = X[:6] * 3 if mode == "symbolic" else X * 3
    graph = make_fx(f, tracing_mode=mode)(X, PARAMS.gamma)
    assert "bnspec.batch_norm.default" in targets(graph.graph)
    assert torch.equal(graph(other, PARAMS.gamma), f(other, PARAMS.gamma))


def test_place_holders() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(8, 4, 6, 5, requires_grad=True)
        module = ours.BatchNorm2d(4, virtual_batch_size=2)
        y = module(x)
        y.sum().backward()
        assert (y.shape, x.grad.shape, module.running_mean.shape) == (X.shape, X.shape, (4,))


@pytest.mark.parametrize("training", [False, True])
def test_jit_trace(training: bool) -> None:
    module, eager = pair()
    graph = torch.jit.trace(module.train(training), X, check_trace=False)
    eager.train(training)(X)
    assert ("aten::batch_norm" in str(graph.graph)) is not training
    torch.testing.assert_close(graph(OTHERS[1]), eager(OTHERS[1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph.running_var, eager.running_var)


def test_a_module_is_a_leaf_of_fx() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), pair()[0], torch.nn.ReLU())
    graph = torch.fx.symbolic_trace(model)
    assert [node.op for node in graph.graph.nodes] == ["placeholder", *["call_module"] * 3, "output"]
    torch.testing.assert_close(graph(X), copy.deepcopy(model)(X))


def test_vmap_of_what_is_compiled() -> None:
    def f(x: Any) -> Any:
        return bnspec.batch_norm(x, PARAMS, CONFIG)[0]

    both = torch.stack([X, X * 2])
    torch.testing.assert_close(compiled(torch.func.vmap(f))(both), torch.stack([f(X), f(X * 2)]))


def _loss(x: Any) -> Any:
    return (bnspec.batch_norm(x, PARAMS, CONFIG)[0] ** 3).sum()


def _frozen_loss(x: Any) -> Any:
    state = STATE._replace(mean=STATE.mean + 1)
    return (bnspec.batch_norm_inference(x, PARAMS, state, CONFIG)[0] ** 3).sum()


DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "grad": torch.func.grad(_loss),
    "vjp": lambda x: torch.func.vjp(_loss, x)[1](torch.tensor(2.0))[0],
    "jvp": lambda x: torch.func.jvp(_loss, (x,), (torch.ones_like(x) + x,))[1],
    "hessian": lambda x: torch.func.hessian(_loss)(x[:2, :, :2, :1]),
    "vmap of grad": lambda x: torch.func.vmap(torch.func.grad(_loss))(torch.stack([x, 2 * x])),
    "grad, float64": lambda x: torch.func.grad(_loss)(x.double()),
    "grad of evaluation": torch.func.grad(_frozen_loss),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_torch_func_inside_a_graph(name: str) -> None:
    f = DERIVATIVES[name]
    torch.testing.assert_close(compiled(f)(X), f(X))


@pytest.mark.parametrize("more", [{"mask": MASK}, {"lengths": torch.full((8,), 3)}])
def test_what_has_no_derivative_inside_a_graph_is_refused(more: dict[str, Any]) -> None:
    f = lambda x: bnspec.batch_norm(x, PARAMS, CONFIG, **more)[0].sum()  # noqa: E731
    with pytest.raises(Exception, match=r"torch\.func inside torch\.compile.*BN-GRAD-7"):
        compiled(torch.func.grad(f))(X)


@pytest.mark.parametrize("clause", ["BN-RUN-4", "BN-RUN-14"])
def test_an_update_that_is_refused_when_the_graph_runs_moves_nothing(clause: str) -> None:
    module, _ = pair()
    call = compiled(module)
    call(X)
    if clause == "BN-RUN-14":
        with torch.no_grad():
            module.running_var[2] = -1.0
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=clause):
        call(X if clause == "BN-RUN-14" else X[:1, :, :1, :1])
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_what_a_compiler_fuses_keeps_the_digits_of_hard_inputs() -> None:
    """In C++ as torch writes it: a mean of a million deviations, a constant channel, an outlier, and one with a NaN."""
    x = X.clone()
    x[:, 0] += 1e6
    x[:, 1] = 0.1
    x[0, 2, 0, 0] = 1e8
    module, eager = pair()
    call = torch.compile(lambda x: torch.relu(module(x)), fullgraph=True)
    clean = step(module, call, x)
    spacing = torch.finfo(torch.float32).eps
    for a, b in zip(clean, step(eager, lambda x: torch.relu(eager(x)), x), strict=True):
        assert float((a - b).abs().max()) <= spacing * float(b.abs().max())
    assert torch.equal(clean[0][:, 1], torch.zeros(8, 6, 5))  # beta, to the bit
    x[3, 3, 3, 3] = torch.nan
    broken = step(module, call, x)
    assert broken[0][:, 3].isnan().all()
    assert equal([v[:, :3] for v in broken[:2]], [v[:, :3] for v in clean[:2]])


def test_torch_jit_script_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), pair()[0])
    with pytest.raises(TypeError, match=r"torch\.jit\.script of a BatchNorm2d.*BN-ERR-5"):
        torch.jit.script(model)
    torch.jit.script(ours.restore(model))


def test_checkpoint_in_a_graph_moves_once() -> None:
    from torch.utils.checkpoint import checkpoint

    module, eager = pair()
    call = compiled(lambda x: checkpoint(module, x, use_reentrant=False))
    assert equal(step(module, call, X), step(eager, eager, X))
    assert int(module.num_batches_tracked) == 1


def test_ranks_break_the_graph_and_not_the_numbers() -> None:
    from bnspec_backends.ranks import threads

    def rank(comm: Any) -> Any:
        module = ours.BatchNorm2d(4, sync=comm)
        return step(module, torch.compile(module, backend="aot_eager"), X), step(module, module, X)[:4]

    ((found, eager),) = threads.run(1, rank)
    assert equal(found[:4], eager)


@pytest.mark.parametrize("watch", ["FlopCounterMode", "a mode of a user's own"])
def test_watchers_see_a_step(watch: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Seen(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    module, eager = pair()
    mode = Seen() if watch != "FlopCounterMode" else FlopCounterMode(display=False)
    with mode:
        found = step(module, module, X)
    for a, b in zip(found, step(eager, eager, X), strict=True):
        torch.testing.assert_close(a, b)
    assert not isinstance(mode, Seen) or mode.count > 10


def test_selective_checkpointing_meets_the_operations() -> None:
    """A policy decides by operation what is kept; the gradients are those of the plain step."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    module, eager = pair()
    policy: Callable[..., Any] = lambda *given, **more: CheckpointPolicy.PREFER_RECOMPUTE  # noqa: E731
    contexts = lambda: create_selective_checkpoint_contexts(policy)  # noqa: E731
    call = lambda x: checkpoint(module, x, use_reentrant=False, context_fn=contexts)  # noqa: E731
    for a, b in zip(step(module, call, X), step(eager, eager, X), strict=True):
        torch.testing.assert_close(a, b)


def test_the_first_call_of_a_process_may_be_one_that_is_compiled() -> None:
    """How a backend is found cannot be traced."""
    program = """
import torch, bnspec
config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
def step(x, xdot, params, state):
    y, stats, saved = bnspec.batch_norm(x, params, config, state=state)
    tangents = bnspec.batch_norm_tangents(xdot, saved)
    return y, tangents.y, bnspec.update_running(state, stats, config).mean
one = torch.ones(1)
x, xdot = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]])
compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
found = compiled(x, xdot, bnspec.Params(one, 0 * one), bnspec.RunningState(one, one))
print([v.flatten().tolist() for v in found])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([[-0.5, 0.5], [-0.75, 0.75], [1.1]]).replace("1.1", str(1.100000023841858))
