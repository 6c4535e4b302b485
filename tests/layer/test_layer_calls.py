"""Which call a layer's backward answers, what it keeps of a batch until then, and forks in the middle of it."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import bits
from installed_here import BACKENDS

import bnspec

X = np.asarray([[0.0], [0.0], [0.0], [2.0]])
X2 = 4 * X + 8
DY = np.asarray([[1.0], [0.0], [0.0], [0.0]])
DX = np.asarray([[11.0], [-5.0], [-5.0], [-1.0]]) / 16  # of X and DY with epsilon 1/4, by hand

WHICH = r"backward after \d calls that no backward has answered; .*\[BN-ERR-4\]. .*batch_norm_vjp.*forget\(\)"
GONE = r"backward of a call whose x nobody holds any more; .*\[BN-ERR-4\]"


def layer(**options: Any) -> Any:
    return bnspec.BatchNorm(epsilon=0.25, **options)


def refused(one: Any, match: Any) -> None:
    before = bits(one.variables)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=match):
            one.backward(DY)
    assert bits(one.variables) == before


# --- which call -------------------------------------------------------------------------------------------------------


def test_a_call_and_its_backward_by_turns() -> None:
    one = layer()
    for x in (X, X2, X):
        one(x)
        assert np.allclose(one.backward(DY), layer_dx(x))
    one(X)
    assert one.backward(DY).tolist() == DX.tolist()


def layer_dx(x: Any) -> Any:
    config = layer().config_for(x)
    params = bnspec.init(config, channels=1, like=x)[0]
    return bnspec.batch_norm_vjp(DY, bnspec.batch_norm(x, params, config)[2]).x


@pytest.mark.parametrize("calls", [2, 3, 5])
def test_backward_after_several_calls_is_refused_until_they_are_forgotten(calls: int) -> None:
    one = layer()
    for _ in range(calls):
        one(X)
    refused(one, WHICH)
    one(X)  # one more does not make it clearer
    refused(one, WHICH)
    one.forget()
    refused(one, "backward without a forward pass of its own")
    one(X)
    assert one.backward(DY).tolist() == DX.tolist()


@pytest.mark.parametrize("switch", ["train", "eval"])
def test_a_switch_drops_the_calls_before_it(switch: str) -> None:
    one = layer()
    one(X2)
    getattr(one, switch)()
    refused(one, "backward without a forward pass of its own")
    one.train()(X)
    assert one.backward(DY).tolist() == DX.tolist()


def test_a_step_of_training_ends_the_inference_before_it_and_not_the_step() -> None:
    one = layer(training=False)
    for _ in range(3):
        one(X2)
    refused(one, WHICH)
    one.training = True
    one(X)
    assert one.backward(DY).tolist() == DX.tolist()
    one(X)
    one.training = False
    one(X2)
    refused(one, WHICH)


def test_a_repeated_pass_is_the_one_that_is_answered() -> None:
    one = layer()
    one(X)
    one(X2)
    for x in (X2, X):  # as checkpoints do it: each pass is repeated just before its backward
        with bnspec.recompute():
            one(x)
        assert np.allclose(one.backward(DY), layer_dx(x))
    with bnspec.recompute():
        one(X)
        one(X2)
    refused(one, WHICH)


def test_two_threads_at_one_layer_are_two_calls() -> None:
    one = layer()
    threads = [threading.Thread(target=one, args=(x,)) for x in (X, X2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    refused(one, WHICH)


def test_a_call_answers_for_the_gamma_it_was_made_with() -> None:
    one = layer()
    one(X)
    one.load_state_dict(one.state_dict() | {"gamma": np.asarray([100.0])})
    assert one.backward(DY).tolist() == DX.tolist()


# --- what is kept -----------------------------------------------------------------------------------------------------


def inference(one: Any, x: Any) -> None:
    one.eval()(x)


def prediction(one: Any, x: Any) -> None:
    with bnspec.training_context(is_training=False):
        one(x)


@pytest.mark.parametrize("call", [inference, prediction])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_keeps_no_batch(backend: str, call: Any) -> None:
    put, one = bnspec.get_backend(backend).asarray, layer()
    for trained in (True, False):
        x = put(X)
        if trained:
            one(x)
        call(one, x)
        one.forget()
        call(one, x)
        held, dy = weakref.ref(x), put(DY)
        mean, var = (bnspec.get_backend(backend).to_numpy(v) for v in one.state[:2])
        expected = DY / np.sqrt(var + 0.25)
        dx = one.backward(dy)  # while the caller holds x
        np.testing.assert_allclose(bnspec.get_backend(backend).to_numpy(dx), expected, rtol=1e-6)
        gamma = float(bnspec.get_backend(backend).to_numpy(one.gradients.gamma)[0])
        assert gamma == pytest.approx(float((-mean / np.sqrt(var + 0.25))[0]), rel=1e-5)
        call(one.forget(), x)
        del x, dx
        gc.collect()
        assert held() is None
        refused_in(one, dy)
        one.trainable = False  # dx and the shape of dy are known without x
        np.testing.assert_allclose(bnspec.get_backend(backend).to_numpy(one.backward(dy)), expected, rtol=1e-6)
        one.trainable = True


def refused_in(one: Any, dy: Any) -> None:
    with pytest.raises(RuntimeError, match=GONE):
        one.backward(dy)


def test_the_switch_drops_the_last_batch_of_training_and_its_dx() -> None:
    one, x = layer(), np.ones((4, 1))
    one(x)
    dx = weakref.ref(one.backward(DY))
    one(x)
    held = weakref.ref(x)
    del x
    assert held() is not None and dx() is not None  # noqa: PT018
    one.eval()
    assert held() is None
    assert dx() is None
    assert one.gradients.gamma is not None


@pytest.mark.filterwarnings("ignore::bnspec.FrozenStatisticsWarning")
def test_a_frozen_step_keeps_its_batch_only_for_the_gradient_of_gamma() -> None:
    for options, kept in (({}, True), ({"trainable": False}, False), ({"scale": False}, False)):
        one, x = layer(training=False, **options), X.copy()
        with bnspec.training_context():
            one(x)
        held = weakref.ref(x)
        del x
        assert (held() is not None) == kept
        with pytest.raises(ValueError, match="BN-GRAD-1"):
            one.backward(DY[:2])
        assert np.allclose(one.backward(DY), DY / np.sqrt(1.25))


def test_training_keeps_its_batch_until_it_is_answered() -> None:
    one, x = layer(), X.copy()
    one(x)
    held = weakref.ref(x)
    del x
    assert held() is not None
    one.backward(DY)
    assert held() is None


def test_torch_keeps_the_batches_that_it_records() -> None:
    torch = pytest.importorskip("torch")
    one = layer(trainable=False)
    for _ in range(3):
        x = torch.asarray(X).requires_grad_()
        one(x).sum().backward()
    held = weakref.ref(x)
    del x
    gc.collect()
    assert held() is None
    with torch.no_grad():
        one.forget()(torch.asarray(X))
    with pytest.raises(RuntimeError, match=GONE):
        one.backward(torch.asarray(DY))
    x = torch.asarray(X).requires_grad_()
    y = one.forget()(x)
    y.backward(torch.asarray(DY))
    assert torch.equal(one.backward(torch.asarray(DY)), x.grad)


# --- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_others_train_load_and_update_finds_all_locks_free() -> None:
    # A program of its own: libraries that other tests have loaded may warn of a fork.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = Path(__file__).parents[1] / "support" / "fork_program.py"
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("30 children\n", 0), done.stderr
