"""A layer as an object: copies and pickles, loading into arrays that are there, attributes, and who may call it."""

import copy
import functools
import io
import pickle
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from installed_here import BACKENDS

import bnspec
from bnspec_backends.ranks import threads

X = np.random.default_rng(6).standard_normal((8, 3)).astype(np.float32)
TWO = functools.partial(np.full, fill_value=2.0)


def called(layer: Any, x: Any) -> Any:
    layer(x)
    return layer


# --- copies -----------------------------------------------------------------------------------------------------------


def pickled(layer: Any) -> Any:
    return pickle.loads(pickle.dumps(layer))


def saved_by_torch(layer: Any) -> Any:
    torch = pytest.importorskip("torch")
    torch.save(layer, buffer := io.BytesIO())
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def with_gradients(x: Any) -> Any:
    layer = called(bnspec.BatchNorm(dialect="torch"), x)
    layer.backward(x)
    return layer


def with_values_waiting(x: Any) -> Any:
    layer = bnspec.BatchNorm()
    layer.load_state_dict(called(bnspec.BatchNorm(), x).state_dict())
    return layer


STATES = {
    "not called": lambda x: bnspec.BatchNorm(gamma_initializer=TWO, beta_initializer=[1.0, 2.0, 3.0]),
    "called": lambda x: called(bnspec.BatchNorm(averaging="cumulative"), x),
    "called, initialized by a lambda": lambda x: called(bnspec.BatchNorm(gamma_initializer=lambda shape: 3.0), x),
    "with gradients": with_gradients,
    "with values waiting": with_values_waiting,
    "in inference": lambda x: called(called(bnspec.BatchRenorm(2.0, 1.0, axis=1), x).eval(), x),
}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled, saved_by_torch])
@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_goes_on_like_the_layer(backend: str, kind: Any, way: Any) -> None:
    put, host = bnspec.get_backend(backend).asarray, bnspec.get_backend(backend).to_numpy
    layer = STATES[kind](put(X))
    with bnspec.training_context():
        other = way(layer)
    assert repr(other) == repr(layer)
    assert list(other.variables) == list(layer.variables)
    with pytest.raises(RuntimeError, match="backward without a forward pass of its own"):
        other.backward(put(X))
    layer.forget()
    results, x = [], put(X)
    for each in (layer, other):
        results.append([host(v) for v in (each(x), each.backward(x), *each.variables.values())])
    assert bits(results[0]) == bits(results[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pickle_holds_no_batch(backend: str) -> None:
    put = bnspec.get_backend(backend).asarray
    layer, x = bnspec.BatchNorm(), put(np.ones((1024, 256), np.float32))
    called(layer, x).backward(x)
    layer(x)
    assert len(pickle.dumps(layer)) < 20_000


def test_a_copy_shares_the_communicator_and_a_pickle_refuses_it() -> None:
    def run(comm: Any) -> None:
        layer = called(bnspec.BatchNorm(comm=comm), X[comm.rank :: 2])
        for other in (copy.copy(layer), copy.deepcopy(layer)):
            assert bits(other(X[comm.rank :: 2])) == bits(layer(X[comm.rank :: 2]))
        with pytest.raises(TypeError, match=r"a pickle of a layer with comm=<ThreadCommunicator>.*\[BN-STATE-2\]"):
            pickle.dumps(layer)

    threads.run(2, run)


def test_a_layer_that_names_its_communicator_is_pickled_and_finds_its_own() -> None:
    def run(comm: Any) -> tuple[Any, ...]:
        layer = called(bnspec.BatchNorm(sync_statistics="threads"), X[comm.rank :: 2])
        other = pickled(layer)
        return bits(other(X[comm.rank :: 2])), bits(layer(X[comm.rank :: 2]))

    for one, other in threads.run(2, run):
        assert one == other


@pytest.mark.filterwarnings("ignore::bnspec.UntrainedParametersWarning")
def test_a_layer_of_torch_is_copied_whatever_it_is_part_of() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)
    layer = called(bnspec.BatchNorm(), x)
    layer.params = bnspec.Params(*map(torch.nn.Parameter, layer.params))
    y = layer(x.clone().requires_grad_())
    layer.gradients = bnspec.Gradients(y, y, y)
    other = copy.deepcopy(layer)
    assert type(other.params.gamma) is torch.nn.Parameter
    assert other.params.gamma is not layer.params.gamma
    layer.params = bnspec.Params(*(v * 2 for v in layer.params))  # results of operations, which torch copies not
    for way in (copy.deepcopy, pickled):
        assert torch.equal(way(layer).params.gamma, layer.params.gamma)
    with torch.inference_mode():
        other = copy.deepcopy(layer)
    assert not any(v.is_inference() for v in (*other.params, *other.state[:2]))


def test_a_subclass_is_copied_with_what_it_has() -> None:
    layer = Own(axis=1)
    layer(X)
    layer.calls.append(1)
    for way in (copy.copy, copy.deepcopy, pickled):
        other = way(layer)
        assert (type(other), other.calls, other.factor) == (Own, [1], 3)
        assert (other.calls is layer.calls) == (way is copy.copy)


class Own(bnspec.BatchNorm):
    """A user's layer with attributes of its own."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[Any] = []
        super().__init__(**options)
        self.factor = 3


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_gamma_and_beta_are_written_and_the_state_is_replaced(backend: str) -> None:
    put, host = bnspec.get_backend(backend).asarray, bnspec.get_backend(backend).to_numpy
    layer = called(bnspec.BatchNorm(), put(X))
    values = {name: host(v) + 1 for name, v in layer.state_dict().items()}
    params, state = layer.params, layer.state
    before = [host(v).copy() for v in state[:2]]
    layer.load_state_dict(values)
    kept = backend != "jax"  # whose arrays cannot be written
    assert (layer.params.gamma is params.gamma) == (layer.params.beta is params.beta) == kept
    assert layer.state.mean is not state.mean
    assert bits([host(v) for v in state[:2]]) == bits(before)
    assert bits({name: host(v) for name, v in layer.variables.items()}) == bits(values)


def test_arrays_that_cannot_be_written_are_replaced() -> None:
    layer = called(bnspec.BatchNorm(), X)
    values = {name: v + 1 for name, v in layer.state_dict().items()}
    layer.params.gamma.flags.writeable = False
    gamma, beta = layer.params
    layer.load_state_dict(values)
    assert gamma.tolist() == [1.0] * 3
    assert layer.params.gamma.tolist() == [2.0] * 3
    assert layer.params.beta is beta


def test_a_parameter_of_torch_stays_that_parameter() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)
    layer = called(bnspec.BatchNorm(), x)
    layer.params = bnspec.Params(*map(torch.nn.Parameter, layer.params))
    optimizer = torch.optim.SGD(list(layer.params), lr=1.0)
    layer.load_state_dict({name: v + 1 for name, v in layer.state_dict().items()})
    assert layer.params.gamma.tolist() == [2.0] * 3
    layer(x).pow(3).sum().backward()
    before = layer.params.gamma.tolist()
    optimizer.step()
    assert layer.params.gamma.tolist() != before
    given = torch.nn.Parameter(torch.full((3,), 5.0))
    layer = called(bnspec.BatchNorm(gamma_initializer=given), x)
    assert layer.params.gamma is given
    with pytest.raises(TypeError, match="gamma_initializer is a float32 tensor on cpu that requires grad"):
        bnspec.BatchNorm(gamma_initializer=given)(x.double())


def test_parameters_set_before_the_first_call_are_loaded_too() -> None:
    layer = bnspec.BatchNorm()
    layer.params = bnspec.Params(np.ones(3, np.float32), np.zeros(3, np.float32))
    gamma = layer.params.gamma
    values = {name: v + 1 for name, v in called(bnspec.BatchNorm(), X).state_dict().items()}
    layer.load_state_dict(values)
    layer.eval()(X)
    assert layer.params.gamma is gamma
    assert bits(layer.variables) == bits(values)


def test_an_interrupt_while_loading_leaves_the_layer_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnspec._layer import writing

    layer = called(bnspec.BatchNorm(), X)
    before, write, made = bits(layer.variables), writing._write, []

    def interrupted(a: Any, b: Any) -> None:
        made.append(a)
        if len(made) == 2:
            raise KeyboardInterrupt
        write(a, b)

    monkeypatch.setattr(writing, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layer.load_state_dict({name: v + 1 for name, v in layer.state_dict().items()})
    assert len(made) == 4
    assert bits(layer.variables) == before


@pytest.mark.filterwarnings("ignore::bnspec.UntrainedParametersWarning")
def test_variables_made_in_inference_mode_of_torch_are_trained_later() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)
    with torch.inference_mode():
        layer = called(bnspec.BatchNorm().eval(), x)
        trained = called(bnspec.BatchNorm(averaging="cumulative"), x)
        loaded = called(bnspec.BatchNorm(), x)
        loaded.load_state_dict(loaded.state_dict())
    for each in (layer, trained, loaded):
        assert not any(v.is_inference() for v in (*each.params, *each.state) if v is not None)
        each.params = bnspec.Params(*map(torch.nn.Parameter, each.params))
        each.train()(x.clone().requires_grad_()).pow(3).sum().backward()
        assert each.params.gamma.grad is not None


# --- attributes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decay", 0.5), ("momentum", 0.5), ("epsilon", 1.0), ("axis", 1), ("dialect", "torch"), ("comm", None),
        ("virtual_batch_size", 2), ("ema_update", "skip"), ("gamma_initializer", 1.0), ("use_local_stat", True),
        ("gamma", 1.0), ("running_mean", 0.0), ("trainning", False), ("train", False), ("variables", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [bnspec.BatchNorm, functools.partial(bnspec.BatchRenorm, 2.0, 1.0)])
def test_an_attribute_that_would_have_no_effect_is_refused(
    kind: Any, name: str, value: bool | dict[str, Any] | float | int | str | None
) -> None:
    layer = called(kind(), X)
    before = dict(vars(layer))
    with pytest.raises(AttributeError, match=rf"{type(layer).__name__}.{name} was set.*\[BN-ERR-1\]\. "):
        setattr(layer, name, value)
    assert vars(layer) == before


@pytest.mark.parametrize("name", ["decay", "momentum", "axis", "config"])
def test_an_option_that_is_read_says_where_it_is(name: str) -> None:
    layer = bnspec.BatchNorm(decay=0.5)
    with pytest.raises(AttributeError, match=rf"BatchNorm\.{name} was read.*BN-ERR-1.*layer\.config_for\(x\)"):
        getattr(layer, name)
    with pytest.raises(AttributeError, match="object has no attribute 'weight'"):
        getattr(layer, "weight")  # noqa: B009 - type checkers know that there is none
    assert not hasattr(layer, "decay")
    assert layer.config_for(X).decay == 0.5


def test_a_subclass_has_attributes_of_its_own_and_not_the_options() -> None:
    layer = Own()
    layer.factor = 4
    layer.anything = "else"
    with pytest.raises(AttributeError, match="an option that is read at construction"):
        layer.decay = 0.5


@pytest.mark.parametrize("value", ["False", 1, 0, 0.0, "no", [], np.asarray([True])])
@pytest.mark.parametrize(("name", "clause"), [("training", "BN-UPD-7"), ("trainable", "BN-INF-6")])
def test_a_switch_is_a_bool(name: str, clause: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is .*; expected True or False \[{clause}\]"):
        bnspec.BatchNorm(**{name: value})
    layer = bnspec.BatchNorm()
    with pytest.raises(TypeError, match=rf"\[{clause}\]"):
        setattr(layer, name, value)
    with pytest.raises(TypeError, match=r"\[BN-UPD-7\]"):
        layer.train(value)
    setattr(layer, name, np.bool_(False))
    assert getattr(layer, name) is False


def test_records_of_another_kind_are_refused() -> None:
    layer = called(bnspec.BatchNorm(), X)
    gamma, beta = layer.params
    mean, var = layer.state[:2]
    wrong = {
        "params": [(gamma, beta), {"gamma": gamma}, bnspec.RunningState(mean, var), bnspec.Params(gamma, None),
                   bnspec.Params([1.0] * 3, beta), bnspec.Params(gamma[None], beta), bnspec.Params(gamma[:2], beta)],
        "state": [(mean, var), layer.params, bnspec.RunningState(mean, 1.0), bnspec.RunningState(mean, var[:1])],
        "gradients": [(gamma, beta, gamma), layer.params],
    }  # fmt: skip
    before = bits(layer.variables)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=r"\[BN-(SHAPE-6|NORM-2)\]"):
                setattr(layer, name, value)
    assert bits(layer.variables) == before


@pytest.mark.parametrize("given", [(3,), (64, 0.1), (None,)])
def test_the_number_of_channels_is_no_argument(given: tuple[Any, ...]) -> None:
    for kind in (bnspec.BatchNorm, functools.partial(bnspec.BatchRenorm, 2.0, 1.0)):
        with pytest.raises(
            TypeError, match=r"by position; expected arguments by keyword, such as axis=1 \[BN-SHAPE-2\]"
        ):
            kind(*given)


@pytest.mark.parametrize("value", ["zeros", True, {}, object()])
def test_what_initializes_nothing_is_refused_at_once(value: Any) -> None:
    with pytest.raises(TypeError, match=r"beta_initializer is or returned a .*\[BN-SHAPE-6\]"):
        bnspec.BatchNorm(beta_initializer=value)


def test_a_layer_shows_its_configuration() -> None:
    layer = bnspec.BatchNorm(axis=1, momentum=0.25, dialect="torch", scale=False, name="bn1")
    shown = "BatchNorm(axis=1, decay=0.75, epsilon=1e-05, scale=False, dialect='torch', name='bn1')"
    assert repr(layer) == f"<{shown}, no channels yet, train()>"
    layer(X)
    assert repr(layer.eval()) == f"<{shown}, 3 channels, eval()>"
    assert "rmax=2.0, dmax=1.0" in repr(bnspec.BatchRenorm(2.0, 1.0))
    assert "training=False, comm=<int>" in repr(bnspec.BatchNorm(comm=3, training=False))
    assert repr(bnspec.BatchNorm.__new__(bnspec.BatchNorm)).startswith("<BatchNorm(")
