"""Models of one layer of batch normalization in each framework: saved, and run in inference, by the framework itself.

Arrays go in and come out with channels on axis 1, and a layer's values are those that inference uses.
"""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

import bnspec

__all__ = ["MODELS", "Model"]

C = 3
UPDATES = 7


class Model(ABC):
    """One framework's model.

    Attributes
    ----------
    dialect, suffix, layer : str
        Whose conventions, which format, and the layer's name in the file.
    package : str
        Needed to save and to run it.
    needs_template, has_options : bool
        Whether a file of the model must be there to be filled, and whether the file itself has the arguments.
    """

    dialect: str
    suffix: str
    layer: str = "bn"
    package: str = ""
    needs_template = False
    has_options = False

    @abstractmethod
    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        """Save the model with the layer's values and arguments, by the framework's own means."""

    @abstractmethod
    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        """Load what was written into a new model, and run it."""

    def options(self, path: Path, arguments: dict[str, Any]) -> Path:
        """Write the file of options that a user would write for `save`'s file."""
        beside = path.with_name(path.name + ".json")
        content = {"dialect": self.dialect, "layers": {self.layer: arguments}}
        beside.write_text(json.dumps(content | self.names()))
        return beside

    def names(self) -> dict[str, Any]:
        """Return the names of arrays, where the file has none."""
        return {}


class Torch(Model):
    """torch, a ``.pt`` of a ``state_dict``."""

    dialect, suffix, package = "torch", ".pt", "torch"

    def _model(self, arguments: dict[str, Any]) -> Any:
        import torch

        return torch.nn.ModuleDict({"bn": torch.nn.BatchNorm2d(C, **arguments)})

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        import torch

        model = self._model(arguments)
        names = bnspec.dialects.torch.names
        state = {f"bn.{names[f]}": torch.asarray(v) for f, v in values.items()}
        model.load_state_dict(state | {"bn.num_batches_tracked": torch.asarray(UPDATES)})
        torch.save(model.state_dict(), path)

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        import torch

        model = self._model(arguments)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()["bn"](torch.asarray(x)).detach().numpy()


class _KerasLike(Model):
    def _keras(self) -> Any:
        raise NotImplementedError

    def _model(self, arguments: dict[str, Any]) -> Any:
        keras = self._keras()
        return keras.Sequential([keras.Input((2, 2, C)), keras.layers.BatchNormalization(**arguments)])

    def _filled(self, values: dict[str, Any], arguments: dict[str, Any]) -> Any:
        model = self._model(arguments)
        model.layers[-1].set_weights([values[f] for f in ("gamma", "beta", "mean", "var")])
        return model

    def _run(self, model: Any, x: Any) -> Any:
        return np.moveaxis(np.asarray(model(np.moveaxis(x, 1, -1), training=False)), -1, 1)


class Keras(_KerasLike):
    """Keras, a ``.keras``, which has the layers' arguments."""

    dialect, suffix, package, layer = "keras", ".keras", "keras", "layers/batch_normalization"
    needs_template = has_options = True

    def _keras(self) -> Any:
        import keras

        return keras

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        self._filled(values, arguments).save(path)

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        return self._run(self._keras().models.load_model(path), x)


class TfKeras(_KerasLike):
    """tf-keras, a ``.weights.h5``, which numbers its variables."""

    dialect, suffix, package, layer = "tf_keras", ".weights.h5", "tf_keras", "layers/batch_normalization"

    def _keras(self) -> Any:
        import tf_keras

        return tf_keras

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        self._filled(values, arguments).save_weights(path)

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        model = self._model(arguments)
        model.load_weights(path)
        return self._run(model, x)


class Flax(Model):
    """flax, a ``.msgpack`` of `flax.serialization`."""

    dialect, suffix, package = "flax", ".msgpack", "flax"

    def _variables(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        import flax.linen as nn
        import jax

        class Net(nn.Module):  # type: ignore[misc]
            @nn.compact  # type: ignore[untyped-decorator]
            def __call__(self, x: Any) -> Any:
                return nn.BatchNorm(use_running_average=True, name="bn", **arguments)(x)

        return Net(), Net().init(jax.random.key(0), np.zeros((1, 2, 2, C), np.float32))

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        import flax.serialization

        made = {
            "params": {"bn": {"scale": values["gamma"], "bias": values["beta"]}},
            "batch_stats": {"bn": {"mean": values["mean"], "var": values["var"]}},
        }
        _, variables = self._variables(arguments)
        variables = flax.serialization.from_state_dict(variables, made)
        path.write_bytes(flax.serialization.to_bytes(variables))

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        import flax.serialization

        net, variables = self._variables(arguments)
        variables = flax.serialization.from_bytes(variables, path.read_bytes())
        return np.moveaxis(np.asarray(net.apply(variables, np.moveaxis(x, 1, -1))), -1, 1)


class Haiku(Model):
    """haiku, a ``.npz`` of parameters and state by joined names."""

    dialect, suffix, package = "haiku", ".npz", "haiku"

    def _made(self, arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
        import haiku
        import jax

        def layer(x: Any) -> Any:
            return haiku.BatchNorm(name="bn", data_format="channels_first", **arguments)(x, is_training=False)

        transformed = haiku.without_apply_rng(haiku.transform_with_state(layer))

        def first(x: Any) -> Any:
            return haiku.BatchNorm(name="bn", data_format="channels_first", **arguments)(x, is_training=True)

        params, state = haiku.transform_with_state(first).init(jax.random.key(0), np.zeros((1, C, 2, 2), np.float32))
        return transformed, params, state

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        _, params, state = self._made(arguments)
        debias = 1 - arguments["decay_rate"] ** UPDATES
        flat = {f"params/{m}/{n}": np.array(v) for m, held in params.items() for n, v in held.items()}
        flat |= {f"state/{m}/{n}": np.array(v) for m, held in state.items() for n, v in held.items()}
        for field, name in (("gamma", "params/bn/scale"), ("beta", "params/bn/offset")):
            flat[name] = values[field].reshape(flat[name].shape)
        for field in ("mean", "var"):
            above = f"state/bn/~/{field}_ema"
            flat[f"{above}/average"] = values[field].reshape(flat[f"{above}/average"].shape)
            flat[f"{above}/hidden"] = (flat[f"{above}/average"] * debias).astype(np.float32)
            flat[f"{above}/counter"] = np.asarray(UPDATES, np.int32)
        np.savez(path, allow_pickle=False, **flat)

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        import jax

        transformed, params, state = self._made(arguments)
        loaded: dict[str, Any] = {"params": {}, "state": {}}
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                collection, _, rest = name.partition("/")
                module, _, variable = rest.rpartition("/")
                loaded[collection].setdefault(module, {})[variable] = file[name]
        shapes = jax.tree.map(lambda v: (v.shape, np.asarray(v).dtype.name), (dict(params), dict(state)))
        assert jax.tree.map(lambda v: (v.shape, v.dtype.name), (loaded["params"], loaded["state"])) == shapes
        return np.asarray(transformed.apply(loaded["params"], loaded["state"], x)[0])


class Equinox(Model):
    """equinox, an ``.eqx`` of leaves in order."""

    dialect, suffix, package = "equinox", ".eqx", "equinox"
    needs_template = True

    def _made(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        import equinox

        make = equinox.nn.make_with_state(equinox.nn.BatchNorm)
        made: tuple[Any, Any] = make(C, axis_name="batch", mode="ema", inference=True, **arguments)
        return made

    def names(self) -> dict[str, Any]:
        return {"names": ["bn.weight", "bn.bias", "bn.inference", "bn.first_time", "bn.mean", "bn.var"]}

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        import equinox
        import jax.numpy as jnp

        layer, state = self._made(arguments)
        given = (jnp.asarray(values["gamma"]), jnp.asarray(values["beta"]))
        layer = equinox.tree_at(lambda made: (made.weight, made.bias), layer, given)
        state = state.set(layer.ema_first_time_index, jnp.array(False))
        state = state.set(layer.ema_state_index, (jnp.asarray(values["mean"]), jnp.asarray(values["var"])))
        equinox.tree_serialise_leaves(path, (layer, state))

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        import equinox
        import jax

        layer, state = equinox.tree_deserialise_leaves(path, self._made(arguments))
        assert not bool(state.get(layer.ema_first_time_index))
        return np.asarray(jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)[0])


class Onnx(Model):
    """ONNX, a model of one node, run by onnxruntime."""

    dialect, suffix, package = "onnx", ".onnx", "onnxruntime"
    needs_template = has_options = True

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        from onnx import TensorProto, checker, helper, numpy_helper, save

        names = {"gamma": "bn.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
        node = helper.make_node("BatchNormalization", ["x", *names.values()], ["y"], **arguments)
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", C, "H", "W"]) for n in ("x", "y")]
        held = [numpy_helper.from_array(values[field], name) for field, name in names.items()]
        graph = helper.make_graph([node], "one", ends[:1], ends[1:], held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=10)
        checker.check_model(model)
        save(model, path)

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]


class Tensorpack(Model):
    """tensorpack's names in a ``.npz``, as it dumps them; run by bnspec's layer, which has these names."""

    dialect, suffix, layer = "tensorpack", ".npz", "conv1/bn"

    def save(self, path: Path, values: dict[str, Any], arguments: dict[str, Any]) -> None:
        names = bnspec.dialects.tensorpack.names
        np.savez(path, **{f"{self.layer}/{names[field]}:0": value for field, value in values.items()})

    def infer(self, path: Path, x: Any, arguments: dict[str, Any]) -> Any:
        layer = bnspec.BatchNorm(axis=1, dialect="tensorpack", **arguments)
        with np.load(path, allow_pickle=False) as file:
            layer.load_state_dict({name.removeprefix(f"{self.layer}/"): file[name] for name in file.files})
        return layer.eval()(x)


MODELS: tuple[Model, ...] = (
    Torch(), Keras(), TfKeras(), Flax(), Haiku(), Equinox(), Onnx(), Tensorpack(),
)  # fmt: skip
