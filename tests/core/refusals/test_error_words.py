"""The whole text of what a layer says to words and files it does not know; nothing may change [BN-ERR-1, 2, 5]."""

import sys
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
from installed_here import installed
from refusals import refused

import bnspec
from bnspec import _discovery
from bnspec._cli import main
from bnspec_backends.ranks import threads

X = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
DIALECTS = (
    "bnspec, tensorpack, torch, keras, tf_keras, flax, haiku, equinox, onnx, mxnet, paddle, chainer, nnabla, tinygrad, "
    "mlx"
)


def known(group: Any) -> Any:
    return ", ".join(sorted(entry_points(group=f"bnspec.{group}").names))


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (
            ValueError,
            {"ema_update": "never"},
            "ema_update is 'never'; expected one of 'default', 'collection', 'internal', 'skip' [BN-ERR-5]. "
            "`bnspec spec BN-UPD` describes each.",
        ),
        (
            LookupError,
            {"dialect": "caffe"},
            f"unknown dialect 'caffe'; expected one of {DIALECTS} [BN-ERR-5]. `bnspec dialects` shows what each means.",
        ),
        (
            ValueError,
            {"sync_statistics": "mpi", "dialect": "tensorpack"},
            "sync_statistics='mpi' under the tensorpack dialect; expected None or one of 'nccl', 'horovod' [BN-ERR-5]. "
            "The bnspec dialect takes every installed one.",
        ),
        (
            TypeError,
            {"sync_statistics": 3},
            "sync_statistics is 3; expected None or the name of a communicator [BN-ERR-5]. "
            "Pass a communicator itself as comm=.",
        ),
        (
            ValueError,
            {"virtual_batch_size": 2, "sync_statistics": "nccl", "dialect": "tensorpack"},
            "virtual_batch_size with sync_statistics under the tensorpack dialect; expected one of them [BN-SYNC-5]. "
            "Drop one, or use the bnspec dialect, which combines them.",
        ),
        (
            ValueError,
            {"data_format": "NCWH"},
            "data_format is 'NCWH'; expected one of 'channels_last', 'NHWC', 'channels_first', 'NCHW' [BN-SHAPE-2]. "
            "Or pass axis= itself.",
        ),
        (
            TypeError,
            {"eps": 1e-3},
            "BatchNorm got the unknown argument 'eps'; expected one of its own, or of the aliases momentum, use_bias, "
            "use_scale, beta_init, gamma_init, use_local_stat [BN-ERR-1]. See help(bnspec.BatchNorm).",
        ),
        (
            TypeError,
            {"decay": 0.5, "momentum": 0.5},
            "BatchNorm got decay and its alias momentum; expected one of them [BN-ERR-1]. Keep decay.",
        ),
        (
            TypeError,
            {"training": False, "use_local_stat": True},
            "BatchNorm got training and its alias use_local_stat; expected one of them [BN-ERR-1]. Keep training.",
        ),
        (
            ValueError,
            {"averaging": "median"},
            "averaging is 'median'; expected one of 'exponential', 'cumulative', 'pooled', 'debiased' [BN-RUN-1]. "
            "The clause describes each.",
        ),
    ],
)
def test_a_word_the_layer_does_not_know(kind: Any, options: dict[str, Any], text: str) -> None:
    with refused(kind, text):
        bnspec.BatchNorm(**options)


def test_ghost_with_a_communicator_under_the_tensorpack_dialect() -> None:
    text = (
        "virtual_batch_size with sync_statistics under the tensorpack dialect; expected one of them [BN-SYNC-5]. "
        "Drop one, or use the bnspec dialect, which combines them."
    )

    def run(comm: Any) -> None:
        with refused(ValueError, text):
            bnspec.BatchNorm(virtual_batch_size=2, comm=comm, dialect="tensorpack")
        with refused(ValueError, text):
            bnspec.dialects.tensorpack.config(virtual_batch_size=2, sync=True)

    threads.run(1, run)


def test_an_initializer_that_does_not_fit() -> None:
    layer = bnspec.BatchNorm(gamma_initializer=np.ones(2))
    text = "gamma_initializer gave shape (2,); expected shape (3,) [BN-SHAPE-6]. Return one value per channel."
    with refused(ValueError, text, layer, X):
        layer(X)
    layer = bnspec.BatchNorm(beta_init=lambda shape: "zeros")
    text = (
        "beta_initializer is or returned a str; expected None, a number, an array or a callable that returns one of "
        "these [BN-SHAPE-6]. Pass the values themselves."
    )
    with refused(TypeError, text, layer, X):
        layer(X)


def test_a_collection_outside_a_training_context() -> None:
    layer = bnspec.BatchNorm(dialect="tensorpack")
    text = (
        'batch_norm: ema_update="collection" outside a training context; expected a collection to hand the update to '
        "[BN-UPD-3]. Wrap the step in `with bnspec.training_context() as context:` and call context.updates.run(), or "
        'use ema_update="internal".'
    )
    with refused(RuntimeError, text, layer, X):
        layer(X)


@pytest.mark.parametrize(
    ("name", "wanted", "library", "extra"),
    [
        ("mpi", "mpi", "mpi4py", "mpi"),
        ("horovod", "mpi", "mpi4py", "mpi"),
        ("nccl", "nccl", "cupy", "cuda"),
    ],
)
def test_a_communicator_whose_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, name: str, wanted: str, library: str, extra: str
) -> None:
    class Missing:
        """Finds no library; None in sys.modules would not do, since array-api-compat may look there."""

        @staticmethod
        def find_spec(module: str, path: object = None, target: object = None) -> None:
            if module.split(".")[0] == library:
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    for module in [m for m in sys.modules if f"{m}.".startswith((f"bnspec_backends.ranks.{wanted}.", f"{library}."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    monkeypatch.setattr(_discovery, "_communicators", {})
    text = (
        f"communicator {wanted!r} cannot be imported (No module named {library!r}); expected its library to be "
        f"installed [BN-ERR-5]. Try `pip install bnspec[{extra}]`."
    )
    with refused(ImportError, text):
        bnspec.get_communicator(name)
    layer = bnspec.BatchNorm(sync_statistics=name.upper())
    layer.load_state_dict({name: np.ones(3) for name in ("gamma", "beta", "mean/EMA", "variance/EMA")})
    with refused(ImportError, text, layer, X):
        layer(X)
    layer.eval()
    assert layer(X).shape == X.shape  # inference never communicates, so it misses nothing


def test_a_communicator_and_a_backend_nobody_knows() -> None:
    text = (
        f"unknown communicator 'gloo'; expected one of those installed: {known('communicators')} [BN-ERR-5]. "
        "Install the package that provides it."
    )
    layer = bnspec.BatchNorm(sync_statistics="gloo")
    with refused(LookupError, text, layer, X):
        layer(X)
    text = (
        f"unknown backend 'mlx'; expected one of those installed: {known('backends')} [BN-ERR-5]. "
        "Install the package that provides it."
    )
    with refused(LookupError, text):
        bnspec.get_backend("mlx")


@pytest.mark.skipif(installed("cupy"), reason="CuPy is installed")
def test_a_known_backend_whose_library_is_missing() -> None:
    text = (
        "backend 'cupy' cannot be imported (No module named 'cupy'); expected its library to be installed [BN-ERR-5]. "
        "Try `pip install bnspec[cuda]`."
    )
    with refused(ImportError, text):
        bnspec.get_backend("cupy")
    assert main(["backends"]) == 0  # discovery tells it, and goes on
