"""``.h5``, ``.weights.h5`` and ``.keras`` of Keras and tf-keras, through h5py.

The older ``.h5`` names its variables. A ``.weights.h5`` numbers those of each layer: ``layers/conv2d/vars/0``. Which of
them are gamma, beta, mean and variance follows from the layer's ``center`` and ``scale``. A ``.keras`` holds these in
its ``config.json``. Elsewhere they come from a file of options, or, for layers called ``batch_normalization`` that have
all four, from that name.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import h5py
import numpy as np

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.layers import nested
from bnspec._conversion.options import Options, merged
from bnspec._dialect import Dialect
from bnspec._errors import refusal
from bnspec._files.npy import refuse_inflated, refuse_size
from bnspec_backends.checkpoints.refusals import needed_template, refuse_bfloat16

__all__ = ["H5", "KerasArchive"]

_NUMBERED = re.compile(r"(?:(?P<layer>.*)/)?vars/(?P<number>[0-9]+)")
_NAMED = re.compile(r"(sync_)?batch_normalization(_[0-9]+)?")

#: How the versions begin of those that write a ``.keras``.
_VERSIONS = {"keras": "3", "tf_keras": "2"}

_CLASSES = ("BatchNormalization", "SyncBatchNormalization")


class H5:
    """``.h5``, with named or numbered variables."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for HDF5's first bytes."""
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise ValueError("it does not begin as HDF5 does")

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return all datasets, those of layers that are known by their names."""
        with h5py.File(io.BytesIO(data), "r") as file:
            found = dict(_datasets(file))
        numbered: dict[str, dict[str, Any]] = {}
        for path, array in found.items():
            if (match := _NUMBERED.fullmatch(path)) is not None:
                numbered.setdefault(match["layer"] or "", {})[path] = array
        named: dict[str, str] = {}
        for layer, variables in numbered.items():
            if layer in layers or (_NAMED.fullmatch(layer.rpartition("/")[2]) and _alike(variables.values())):
                fields = _fields(layer, variables, layers.get(layer), row)
                called = row.renorm_names if "stddev" in fields and row.renorm_names is not None else row.names
                named |= {path: f"{layer}/{called[field]}" for path, field in zip(variables, fields)}
        return Checkpoint({named.get(path, path): array for path, array in found.items()})

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the template with the arrays in their places; without one, a ``.weights.h5`` of the arrays alone.

        Layers are numbered, every other array is at the path of its name. tf-keras reads only files in which each
        module has a group of variables, be it empty: a model with modules that have no variables needs a template.
        """
        refuse_bfloat16(given.arrays, "a dtype of HDF5", "Cast it to float32 in the source.")
        paths = _paths(given, row)
        nested({paths.get(name, name): array for name, array in given.arrays.items()}, "/")  # refuses arrays in arrays
        buffer = io.BytesIO(template or b"")
        with h5py.File(buffer, "w" if template is None else "r+") as file:
            for name, array in given.arrays.items():
                path = paths.get(name, name)
                if path in file:
                    file[path][...] = array
                else:
                    file.create_dataset(path, data=array)
            if template is None:
                for group in {"/".join(path.split("/")[:n]) for path in paths.values() for n in range(path.count("/"))}:
                    file.require_group(f"{group}/vars")
        return buffer.getvalue()


class KerasArchive:
    """``.keras``: weights and the model's configuration in one archive."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for an archive that holds what Keras writes."""
        with zipfile.ZipFile(file) as archive:
            refuse_inflated(archive)
            if not {"config.json", "model.weights.h5"} <= set(archive.namelist()):
                raise ValueError("it is no archive of Keras")

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the weights' arrays, with the options that the model's configuration says."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_other_writers(archive, row)
            model = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
        known = {path: Options.of(path, config, row) for path, config in _configurations(model)}
        return Checkpoint(H5().read(weights, row, merged(layers, known), names).arrays, known)

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the template with the arrays, and with epsilon and momentum of the layers in its configuration."""
        do = "Save the new model once and pass it as --template, or write a .weights.h5."
        template = needed_template(template, ".keras", "configuration", do)
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(template)) as old, zipfile.ZipFile(buffer, "w") as archive:
            model = json.loads(old.read("config.json"))
            for path, config in _configurations(model):
                if path in given.layers:
                    config.update(given.layers[path]._replace(center=None, scale=None).in_words_of(row))
            new = {
                "config.json": json.dumps(model).encode(),
                "model.weights.h5": H5().write(given, row, old.read("model.weights.h5")),
            }
            for info in old.infolist():
                archive.writestr(info, new.get(info.filename) or old.read(info))
        return buffer.getvalue()


def _refuse_other_writers(archive: zipfile.ZipFile, row: Dialect) -> None:
    """Refuse an archive that another framework than the one asked for wrote, as it says itself."""
    version = ""
    if "metadata.json" in archive.namelist():
        version = str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    if row.name in _VERSIONS and (not version or version.startswith(_VERSIONS[row.name])):
        return
    wrote = next((name for name, begin in _VERSIONS.items() if version.startswith(begin)), "keras")
    raise refusal(
        ValueError,
        "BN-STATE-5",
        got=f"a file of Keras {version}".rstrip() + f", to be read as one of {row.name}",
        expected=f"the dialect {wrote}",
        do=f"Say --from {wrote}, or --to {wrote} of a template.",
    )


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Every array that is in the file itself; links to other files are not followed."""
    found: list[Any] = []
    file.visititems(lambda path, item: found.append((path, item)) if isinstance(item, h5py.Dataset) else None)
    for path, item in found:
        if item.external or item.is_virtual:
            raise ValueError(f"its array {path!r} lies in another file")
        if item.dtype.kind not in "biuf" or item.dtype.hasobject:
            continue  # texts, such as an optimizer's name
        refuse_size(path, item.nbytes, item.id.get_storage_size())
        yield path, np.array(item[()])


def _alike(arrays: Any) -> bool:
    shapes = {array.shape for array in arrays}
    return len(shapes) == 1 and len(shapes.pop()) == 1


def _fields(layer: str, variables: Mapping[str, Any], options: Options | None, row: Dialect) -> list[str]:
    """The fields of a layer's numbered variables, in order."""
    if not row.storage.numbered:
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"layer {layer!r}, whose variables are numbered, in a file to be read as one of {row.name}",
            expected="names of variables, as that framework writes them",
            do="Name the framework that wrote the file, such as --from keras.",
        )
    held = {} if options is None else {"gamma": options.scale, "beta": options.center}
    absent = [field for field, there in held.items() if there is False]
    every = [field for field in row.storage.numbered if field not in absent]
    plain = [field for field in every if field in row.names]
    for fields in (plain, every):
        if len(fields) == len(variables):
            return fields
    raise refusal(
        ValueError,
        "BN-STATE-5",
        got=f"layer {layer!r} has {len(variables)} variables",
        expected=f"{len(plain)}: {', '.join(plain)}",
        do='Say which of gamma and beta it has: {"layers": {NAME: {"scale": false}}} in --config.',
    )


def _paths(given: Checkpoint, row: Dialect) -> dict[str, str]:
    """The numbered paths of the variables of all layers."""
    found: dict[str, str] = {}
    for layer in given.layers:
        for names in (row.names, row.renorm_names or {}):
            held = [f"{layer}/{names[f]}".removeprefix("/") for f in row.storage.numbered if f in names]
            held = [name for name in held if name in given.arrays]
            prefix = f"{layer}/vars" if layer else "vars"
            found |= {name: f"{prefix}/{number}" for number, name in enumerate(held)}
    return found


def _configurations(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path in the weights, and the configuration, of every layer of batch normalization of a model."""
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for layer in model.get("config", {}).get("layers", []):
        kind, config = layer.get("class_name", ""), layer.get("config", {})
        if config.get("name") in seen:  # a layer that is used again is stored once
            continue
        seen.add(config.get("name"))
        name = re.sub(r"\W+", "", kind)
        name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
        counts[name] = counts.get(name, -1) + 1
        here = f"{path}layers/{name}" + (f"_{counts[name]}" if counts[name] else "")
        if kind in _CLASSES:
            yield here, config
        if "layers" in config:
            yield from _configurations(layer, f"{here}/")
