"""Dialects: what each framework means by batch normalization, one row of data per framework.

A row gives the values of the configuration that reproduce the framework, the words it uses for them, the
names of its variables and what it refuses. Nothing else in bnspec knows a framework by name.
"""

from collections.abc import Iterator

from bnspec._checks.scalars import shown
from bnspec._dialect import Dialect
from bnspec._errors import refusal
from bnspec._storage import STORED

__all__ = ["Dialect", "dialects"]

_RENORM = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance", "stddev": "moving_stddev",
           "renorm_mean": "renorm_mean", "renorm_stddev": "renorm_stddev"}  # fmt: skip
_TENSORPACK = {"gamma": "gamma", "beta": "beta", "mean": "mean/EMA", "var": "variance/EMA", "count": "count"}
_TORCH = {
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}
_KERAS = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance", "count": "count"}

_ROWS = (
    Dialect(name="bnspec", storage=STORED["bnspec"],
            title="this specification, with tensorpack's defaults and names", epsilon=1e-5, decay=0.9,
            axis=-1, names=_TENSORPACK, renorm_names=_RENORM),
    Dialect(name="tensorpack", storage=STORED["tensorpack"],
            title="tensorpack 0.11 on TensorFlow 2.15", epsilon=1e-5, decay=0.9, correction=1,
            fused_correction=True, single_value="floor", sync_weighting="rank", axis=-1, names=_TENSORPACK,
            renorm_names=_RENORM, ranks=(2, 4), axes=(1, 3), ghost_with_sync=False, wide_ghost_and_sync=False,
            default_update="collection", ghost_and_sync_update_inside=True, communicators=("nccl", "horovod"),
            float32_decay=True),
    Dialect(name="torch", storage=STORED["torch"],
            title="torch.nn.BatchNorm1d/2d/3d and SyncBatchNorm, torch 2.13", epsilon=1e-5, decay=0.9,
            correction=1, momentum_weighs="new", names=_TORCH, ranks=(2, 3, 4, 5), axes=(1,)),
    Dialect(name="keras", storage=STORED["keras"],
            title="keras.layers.BatchNormalization, keras 3.15", epsilon=1e-3, decay=0.99, axis=-1,
            names=_KERAS, renorm_names=_RENORM),
    Dialect(name="tf_keras", storage=STORED["tf_keras"],
            title="tf_keras BatchNormalization, tf-keras 2.21", epsilon=1e-3, decay=0.99, correction=1,
            fused_correction=True, single_value="floor", ghost_source="mean", axis=-1, names=_KERAS,
            renorm_names=_RENORM),
    Dialect(name="flax", storage=STORED["flax"],
            title="flax.linen.BatchNorm and flax.nnx.BatchNorm, flax 0.12.8", epsilon=1e-5, decay=0.99,
            axis=-1, sync_weighting="rank",
            names={"gamma": "scale", "beta": "bias", "mean": "mean", "var": "var", "count": "count"}),
    Dialect(name="haiku", storage=STORED["haiku"],
            title="haiku.BatchNorm, haiku 0.0.17 (decay has no default there)", epsilon=1e-5, decay=0.99,
            axis=-1, averaging="debiased", sync_weighting="rank",
            names={"gamma": "scale", "beta": "offset", "mean": "mean_ema/hidden", "var": "var_ema/hidden",
                   "count": "counter"}),
    Dialect(name="equinox", storage=STORED["equinox"],
            title='equinox.nn.BatchNorm(mode="ema"), equinox 0.13.8', epsilon=1e-5, decay=0.99, axis=1,
            sync_weighting="rank",
            names={"gamma": "weight", "beta": "bias", "mean": "mean", "var": "var", "count": "count"}),
    Dialect(name="onnx", storage=STORED["onnx"],
            title="ONNX BatchNormalization, opset 15", epsilon=1e-5, decay=0.9, axis=1, axes=(1,),
            names={"gamma": "scale", "beta": "B", "mean": "input_mean", "var": "input_var", "count": "count"}),
    Dialect(name="mxnet", storage=STORED["mxnet"],
            title="mxnet.gluon.nn.BatchNorm on the CPU", epsilon=1e-5, decay=0.9, axis=1,
            names={"gamma": "gamma", "beta": "beta", "mean": "running_mean", "var": "running_var", "count": "count"}),
    Dialect(name="paddle", storage=STORED["paddle"],
            title="paddle.nn.BatchNorm1D/2D/3D, paddlepaddle 3.3", epsilon=1e-5, decay=0.9, axis=1,
            names={"gamma": "weight", "beta": "bias", "mean": "_mean", "var": "_variance", "count": "count"}),
    Dialect(name="chainer", storage=STORED["chainer"],
            title="chainer.links.BatchNormalization", epsilon=2e-5, decay=0.9, correction=1,
            single_value="floor", axis=1,
            names={"gamma": "gamma", "beta": "beta", "mean": "avg_mean", "var": "avg_var", "count": "N"}),
    Dialect(name="nnabla", storage=STORED["nnabla"],
            title="nnabla.functions.batch_normalization", epsilon=1e-5, decay=0.9, correction=1, axis=1,
            sync_weighting="rank"),
    Dialect(name="tinygrad", storage=STORED["tinygrad"],
            title="tinygrad.nn.BatchNorm, tinygrad 0.14", epsilon=1e-5, decay=0.9, correction=1,
            momentum_weighs="new", axis=1, names=_TORCH, axes=(1,)),
    Dialect(name="mlx", storage=STORED["mlx"],
            title="mlx.nn.BatchNorm, mlx 0.32", epsilon=1e-5, decay=0.9, correction=1,
            momentum_weighs="new", axis=-1, ranks=(2, 3, 4), names=_TORCH),
)  # fmt: skip


class _Dialects:
    """The rows, by attribute, by name and in order."""

    def __init__(self, rows: tuple[Dialect, ...]) -> None:
        self._rows = {row.name: row for row in rows}

    def __getattr__(self, name: str) -> Dialect:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except LookupError as error:
            raise AttributeError(str(error)) from None

    def __getitem__(self, name: str) -> Dialect:
        if not isinstance(name, str) or name not in self._rows:
            raise refusal(
                LookupError,
                "BN-ERR-5",
                got=f"unknown dialect {shown(name)}",
                expected="one of " + ", ".join(self._rows),
                do="`bnspec dialects` shows what each means.",
            )
        return self._rows[name]

    def __iter__(self) -> Iterator[Dialect]:
        return iter(self._rows.values())

    def names(self) -> tuple[str, ...]:
        """The names of all rows."""
        return tuple(self._rows)


dialects = _Dialects(_ROWS)
