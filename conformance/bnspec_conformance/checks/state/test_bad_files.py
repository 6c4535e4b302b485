"""Checks of BN-STATE-5: dictionaries and files that are refused, by name, and change nothing."""

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bnspec._files.formats import HEADER
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.checks.examples import configured
from bnspec_conformance.checks.layers import layer_of, snapshot, state_of
from bnspec_conformance.checks.state.test_files import SUFFIXES, folder, needs_suffix
from bnspec_conformance.checks.state.test_names import layers
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


def bad_dicts(t: Trial, case: Case, layer: Any) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """List bad dictionaries, each with its fault and the names that the refusal has to mention."""
    put, held, plain = t.needs_backend().asarray, layer.state_dict(), state_of(t, layer)
    some = sorted(held)[case.ranks[0].x.size % len(held)]
    yield "a name is missing", {n: v for n, v in held.items() if n != some}, [some]
    yield "a name is unknown", held | {"moving_average": held[some]}, ["moving_average"]
    yield (
        "a name is of another dialect",
        {("running_mean" if "mean" in n else n): v for n, v in held.items()},
        ["running_mean"],
    )
    yield "nothing is there", {}, sorted(held)
    for name in held:
        value = plain[name]
        yield "an array is longer", held | {name: put(np.concatenate([value, value, value[:1]]))}, [name]
        yield "an array has rank 2", held | {name: put(value[None, :])}, [name]
        yield "an array has rank 0", held | {name: put(np.asarray(value.dtype.type(1)))}, [name]
        yield "an entry is a list", held | {name: [0.0] * len(value)}, [name]
        other = "float32" if name == "count" else "int32"
        yield "an array has another kind of dtype", held | {name: put(np.ones(len(value), other))}, [name]
        yield "an array is boolean", held | {name: put(np.ones(len(value), bool))}, [name]
    every = {n: put(np.concatenate([v, v, v[:1]])) for n, v in plain.items()}
    yield "every array is longer", every, sorted(every)


@clauses("BN-STATE-5", "BN-ERR-2")
@explore(layers, share=0.25)
def test_bad_dictionaries(t: Trial, case: Case) -> None:
    """A dictionary with other names, shapes or kinds of dtype is refused by name; the layer stays to the bit."""
    layer, new = layer_of(t, case), layer_of(t, case)
    layer(t.needs_backend().asarray(case.ranks[0].x))
    for what, bad, words in bad_dicts(t, case, layer):
        for each in (layer, new):
            if each is new and what == "every array is longer":
                continue  # a layer that was never called may still get any number of channels
            before = snapshot(t, each, bad)
            said = t.refuses(lambda: each.load_state_dict(bad), (ValueError, TypeError), "BN-STATE-5")  # noqa: B023
            unnamed = f"{what}, but the refusal does not name {words}: {said}"
            t.require(all(w in said for w in words), unnamed, case, proves=("BN-STATE-5",))
            t.require(snapshot(t, each, bad) == before, f"{what}, and the refusal changed something", case)  # both


class _Trap:
    """Unpickling one of these is the failure."""

    sprung = False

    def __reduce__(self) -> Any:
        return (_Trap.spring, ())

    @staticmethod
    def spring() -> float:
        """Remember that it happened."""
        _Trap.sprung = True
        return 0.0


def bad_files(good: bytes, suffix: str) -> Iterator[tuple[str, bytes]]:
    """List bad files, each with its fault and its bytes."""
    for share in (0.0, 0.1, 0.5, 0.9):
        yield f"the first {share:.0%} of a file", good[: int(share * len(good))]
    yield "a file without its last byte", good[:-1]
    yield "noise", np.random.default_rng(0).bytes(len(good))
    yield "a pickle", pickle.dumps(_Trap())
    for at in (-5, -100, *range(9, len(good), len(good) // 12)):  # in the tables, in the arrays, and at the end
        flipped = bytearray(good)
        flipped[at] ^= 32
        yield f"a file with a flipped bit in byte {at}", bytes(flipped)
    if suffix == ".npz":
        for what, headed in (("a file with a pickled array", True), ("another program's file with one", False)):
            pickled = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(pickled, "w") as target:
                for i, member in enumerate(source.infolist()):
                    text = io.BytesIO()
                    np.lib.format.write_array(text, np.asarray([_Trap()], dtype=object), allow_pickle=True)
                    if headed or member.filename != f"{HEADER}.npy":
                        target.writestr(member.filename, text.getvalue() if i == 0 else source.read(member))
            yield what, pickled.getvalue()
    else:
        yield "a header that promises too much", (1 << 40).to_bytes(8, "little") + good[8:]


@clauses("BN-STATE-5", "BN-ERR-2")
@explore(layers, share=0.1)
def test_bad_files(t: Trial, case: Case) -> None:
    """A cut or damaged file, another layer's, or one with pickles is refused; nothing changes or runs."""
    layer, new = layer_of(t, case), layer_of(t, case)
    layer(t.needs_backend().asarray(case.ranks[0].x))
    _Trap.sprung = False
    for suffix in SUFFIXES:
        needs_suffix(suffix)
        with folder() as path:
            layer.save(path / f"good{suffix}")
            good = (path / f"good{suffix}").read_bytes()
            other = layer_of(t, configured(case, scale=not case.config.scale))
            other.save(path / f"other{suffix}")
            wrong = dict(bad_files(good, suffix))
            wrong["another layer's file"] = (path / f"other{suffix}").read_bytes()
            for what, data in wrong.items():
                file = path / f"bad{suffix}"
                file.write_bytes(data)
                for each in (layer, new):
                    before = snapshot(t, each, path)
                    t.refuses(lambda: each.load(file), ValueError, "BN-STATE-5")  # noqa: B023
                    t.require(snapshot(t, each, path) == before, f"the refusal of {what} changed something", case)
                    t.require(not _Trap.sprung, f"{what} was unpickled", case, proves=("BN-STATE-5",))
            plain(path / f"foreign{suffix}", state_of(t, layer))
            for name, proves in ((f"good{suffix}", ("BN-STATE-3",)), (f"foreign{suffix}", ("BN-STATE-5",))):
                new = layer_of(t, case)
                new.load(path / name)
                what = f"variables after loading the {name}"
                t.same(state_of(t, new), state_of(t, layer), what, case, proves=proves)


def plain(path: Path, values: dict[str, Array]) -> None:
    """Write arrays as another program does, which knows nothing of bnspec."""
    if path.suffix == ".npz":
        np.savez(path, **values)  # type: ignore[arg-type]
        return
    from safetensors.numpy import save_file

    save_file(values, path)
