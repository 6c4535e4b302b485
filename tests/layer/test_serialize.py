"""Files of named arrays: round trips to the bit, atomic writes, and refusals. Proves BN-STATE-3, -4 and -5."""

import errno
import hashlib
import io
import json
import os
import pickle
import socket
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnspec._files.serialize import load_arrays, save_arrays

SUFFIXES = [".npz", ".safetensors"]

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 bfloat16".split()


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"state{request.param}"


def equal_to_the_bit(a: Any, b: Any) -> bool:
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def refused(path: Path) -> Any:
    with pytest.raises(ValueError) as error:
        load_arrays(path)
    text = str(error.value)
    assert text.startswith(f"{str(path)!r} ({path.stat().st_size} bytes) cannot be loaded: "), text
    assert text.endswith(
        "[BN-STATE-5]. Load another copy or save the state again; nothing was changed by this attempt."
    )
    assert f"expected an intact {path.suffix} file, of bnspec (format version 2) or of plain named arrays" in text
    return text


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 0, 3), (2, 3)], ids=str)
def test_every_dtype_and_shape_round_trips(path: Path, dtype: Any, shape: tuple[Any, ...]) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    values = np.random.default_rng(0).integers(0, 2 if dtype.kind == "b" else 256, (*shape, dtype.itemsize), np.uint8)
    array = np.ascontiguousarray(values).view(dtype).reshape(shape)  # any bits, NaN payloads among them
    save_arrays(path, {"a": array}, {})
    arrays, metadata = load_arrays(path)
    assert list(arrays) == ["a"]
    assert equal_to_the_bit(arrays["a"], array)
    assert type(arrays["a"]) is np.ndarray
    assert arrays["a"].flags.writeable
    assert metadata == {}


def test_special_values_keep_their_bits(path: Path) -> None:
    array = np.array([0.0, -0.0, np.inf, -np.inf, 5e-324, 1.7976931348623157e308, np.nan])
    array = np.append(array, np.array([0x7FF0000000000001, 0xFFF8DEADBEEF0001], np.uint64).view(float))
    counts = np.array([0, -1, 2**63 - 1, -(2**63), 2**53 + 1])
    save_arrays(path, {"mean/EMA": array, "count": counts}, {})
    arrays, _ = load_arrays(path)
    assert equal_to_the_bit(arrays["mean/EMA"], array)
    assert equal_to_the_bit(arrays["count"], counts)


ODD_NAMES = [
    "mean/EMA",
    "variance/EMA",
    "",
    " ",
    "file",
    "allow_pickle",
    "a.npy",
    ".npy",
    "../up",
    "/root",
    "C:\\x",
    "ä ß 漢字 🙂",
    "line\nfeed\t\"quote' {json}",
    "\x01\x7f",
    "x" * 300,
    "metadata",
    "version",
]


def test_odd_names_round_trip_in_order(path: Path) -> None:
    given = {name: np.array([i, -i]) for i, name in enumerate(ODD_NAMES)}
    metadata = {name: name[::-1] for name in ODD_NAMES} | {"\0": "\ud800", "__bnspec__": "__metadata__"}
    save_arrays(path, given, metadata)
    arrays, read = load_arrays(path)
    assert list(arrays) == ODD_NAMES
    assert all(equal_to_the_bit(arrays[name], given[name]) for name in ODD_NAMES)
    assert read == metadata
    assert list(read) == list(metadata)


def test_no_arrays_at_all(path: Path) -> None:
    save_arrays(path, {}, {"why": "nothing yet"})
    assert load_arrays(path) == ({}, {"why": "nothing yet"})


def test_memory_and_byte_order_do_not_matter(path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    variants = {
        "transposed": array.T,
        "strided": array[:, ::-2],
        "big-endian": array.astype(">f4"),
        "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
        "scalar": np.float32(1.5),
        "list": [1.0, 2.0],
    }
    save_arrays(path, variants, {})
    arrays, _ = load_arrays(path)
    for name, value in variants.items():
        assert np.array_equal(arrays[name], value)
        assert arrays[name].shape == np.shape(value)
        assert arrays[name].dtype.isnative
        assert arrays[name].flags.c_contiguous


def test_arrays_are_copies_of_their_own(path: Path) -> None:
    save_arrays(path, {"a": np.zeros(3), "b": np.zeros(3)}, {})
    first, second = load_arrays(path)[0], load_arrays(path)[0]
    first["a"][:] = 1
    assert not first["b"].any()
    assert not second["a"].any()


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_arrays_of_other_libraries_on_the_host(path: Path, library: str) -> None:
    xp = pytest.importorskip(library)
    save_arrays(path, {"a": xp.asarray([1.0, 2.5], dtype=xp.float32)}, {})
    assert equal_to_the_bit(load_arrays(path)[0]["a"], np.array([1.0, 2.5], np.float32))


def test_equal_arguments_give_equal_bytes(path: Path) -> None:
    arrays = {"b": np.arange(3), "a": np.ones(2)}
    save_arrays(path, arrays, {"k": "v"})
    first = path.read_bytes()
    save_arrays(path, arrays, {"k": "v"})
    assert path.read_bytes() == first


def test_strings_are_paths_too(path: Path) -> None:
    save_arrays(str(path), {"a": np.ones(2)}, {})
    assert list(load_arrays(str(path))[0]) == ["a"]


def test_numpy_and_safetensors_read_the_files_themselves(tmp_path: Path) -> None:
    arrays = {"mean/EMA": np.arange(3.0), "count": np.array(7)}
    save_arrays(tmp_path / "s.npz", arrays, {"k": "v"})
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert equal_to_the_bit(file["mean/EMA"], arrays["mean/EMA"])
        assert equal_to_the_bit(file["count"], arrays["count"])
        assert json.loads(file["__bnspec__"].tobytes())["metadata"] == {"k": "v"}
    numpy = pytest.importorskip("safetensors.numpy")
    save_arrays(tmp_path / "s.safetensors", arrays, {"k": "v"})
    read = numpy.load_file(tmp_path / "s.safetensors")
    assert all(equal_to_the_bit(read[name], arrays[name]) for name in arrays)


# --- what cannot be saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state", "state.npy", "state.pt", "state.npz.gz", ".npz"])
def test_another_suffix_lists_both(tmp_path: Path, name: str) -> None:
    for call in (lambda p: save_arrays(p, {}, {}), load_arrays):
        with pytest.raises(ValueError, match=r"has the suffix .*; expected \.npz or \.safetensors \[BN-STATE-3\]"):
            call(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}]),
        np.array(["text"]),
        np.array([1j]),
        np.array(["2020"], "M8[D]"),
        np.zeros(1, "i4,f4"),
        None,
        object(),
    ],
    ids=["objects", "text", "complex", "dates", "records", "None", "object"],
)
def test_a_dtype_that_is_not_held_is_refused(path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"'mean' is a .*; expected an array of dtype bool, .* \[BN-STATE-3\]"):
        save_arrays(path, {"mean": value}, {})
    assert not list(path.parent.iterdir())


def test_an_array_numpy_cannot_read_is_refused_with_the_reason(path: Path) -> None:
    class Hidden:
        def __array__(self, dtype: Any = None, copy: Any = None) -> None:
            raise RuntimeError("on another device")

    with pytest.raises(TypeError, match="Hidden, which NumPy cannot read: on another device"):
        save_arrays(path, {"mean": Hidden()}, {})


@pytest.mark.parametrize("name", ["__bnspec__", "__metadata__", "a\0b", "\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=r"an array is named .*; expected a name other than __bnspec__ and __metadata__"
    ):
        save_arrays(path, {name: np.ones(1)}, {})
    assert not list(path.parent.iterdir())


def test_names_and_metadata_must_be_strings(path: Path) -> None:
    with pytest.raises(TypeError, match="an array is named 3"):
        save_arrays(path, {3: np.ones(1)}, {})  # type: ignore[dict-item]
    for metadata in ({"epoch": 3}, {3: "epoch"}):
        with pytest.raises(TypeError, match=r"metadata maps .*; expected strings mapped to strings"):
            save_arrays(path, {}, metadata)


def test_missing_safetensors_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: save_arrays(path, {}, {}), lambda: load_arrays(path)):
        with pytest.raises(ImportError, match=r"pip install bnspec\[safetensors\]"):
            call()
    assert path.read_bytes() == b""


def test_missing_ml_dtypes_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_arrays(path, {"a": np.ones(2, ml_dtypes.bfloat16)}, {})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        load_arrays(path)


def test_importing_it_loads_no_numpy() -> None:
    code = "import sys, bnspec._files.serialize; sys.exit('numpy' in sys.modules or 'safetensors' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# --- atomic writes ----------------------------------------------------------------------------------------------------


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["replace", "fsync", "write"])
@pytest.mark.parametrize("old", [False, True])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: bool
) -> None:
    if old:
        save_arrays(path, {"a": np.zeros(3)}, {"which": "old"})
    before = path.read_bytes() if old else None
    if step == "write":

        class Full(io.FileIO):
            def write(self, data: Any) -> None:  # type: ignore[override]
                super().write(bytes(data)[:10])
                full_disk()

        monkeypatch.setattr("builtins.open", lambda descriptor, mode: Full(descriptor, mode))
    else:
        monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_arrays(path, {"a": np.ones(3)}, {"which": "new"})
    monkeypatch.undo()
    assert [each.name for each in path.parent.iterdir()] == ([path.name] if old else [])
    assert (path.read_bytes() if old else None) == before


def test_an_interrupt_while_writing_leaves_the_old_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    save_arrays(path, {"a": np.zeros(3)}, {})
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_arrays(path, {"a": np.ones(3)}, {})
    monkeypatch.undo()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert not load_arrays(path)[0]["a"].any()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_the_old_file(path: Path, step: str) -> None:
    save_arrays(path, {"a": np.zeros(3)}, {})
    before = path.read_bytes()
    code = (
        "import os, sys, numpy\nfrom bnspec._files.serialize import save_arrays\n"
        f"os.{step} = lambda *_: os.kill(os.getpid(), 9)\nsave_arrays(sys.argv[1], {{'a': numpy.ones(3)}}, {{}})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment).returncode == -9
    assert path.read_bytes() == before


def test_the_order_is_write_sync_replace_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: Any) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"fsync {kind} of {os.fstat(descriptor).st_size} bytes" if kind == "file" else "fsync directory")
        fsync(descriptor)

    def note_replace(source: Any, target: Any) -> None:
        assert Path(source).parent == Path(target).parent
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    save_arrays(path, {"a": np.ones(3)}, {})
    assert steps == [f"fsync file of {path.stat().st_size} bytes", "replace", "fsync directory"]


def test_permissions_and_links_are_kept(path: Path) -> None:
    umask = os.umask(0o022)
    try:
        save_arrays(path, {}, {})
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)
    link = path.with_name(f"latest{path.suffix}")
    link.symlink_to(path.name)
    save_arrays(link, {"a": np.ones(1)}, {})
    assert link.is_symlink()
    assert list(load_arrays(path)[0]) == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_system_that_syncs_no_directories_is_fine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def strict(descriptor: Any) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", strict)
    save_arrays(path, {"a": np.ones(1)}, {})
    assert list(load_arrays(path)[0]) == ["a"]


def test_a_missing_directory_is_the_systems_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_arrays(path.parent / "absent" / path.name, {}, {})


# --- what cannot be loaded --------------------------------------------------------------------------------------------


def test_a_missing_file_is_the_systems_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_arrays(path)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    save_arrays(path, {"mean": np.arange(5.0), "count": np.array(3)}, {"k": "v"})
    data = path.read_bytes()
    for length in {*range(0, len(data), 7), len(data) - 1}:
        path.write_bytes(data[:length])
        refused(path)


def test_a_changed_bit_is_refused_wherever_it_is(path: Path) -> None:
    save_arrays(path, {"mean": np.arange(5.0), "sha256:" + "0" * 64: np.ones(1)}, {"k": "sha256:" + "0" * 64})
    data = path.read_bytes()
    for i in range(len(data)):
        bit = 1 << i * 3 % 8
        path.write_bytes(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)
    path.write_bytes(data)
    assert list(load_arrays(path)[0]) == ["mean", "sha256:" + "0" * 64]


@pytest.mark.parametrize("data", [b"", b"not a file of arrays", b"PK\x05\x06" + bytes(17), bytes(100), b"\xff" * 100])
def test_other_files_are_refused(path: Path, data: Any) -> None:
    path.write_bytes(data)
    refused(path)


def test_the_other_format_under_this_suffix_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    a, b = tmp_path / "a.npz", tmp_path / "b.safetensors"
    save_arrays(a, {"a": np.ones(1)}, {})
    save_arrays(b, {"a": np.ones(1)}, {})
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)
    refused(a)
    refused(b)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, marker: Any) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "hostile.npz"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb).close()
    assert marker.exists()  # it would work
    marker.unlink()

    path.write_bytes(bomb)
    refused(path)
    np.savez(path, mean=np.array([Bomb(marker)], dtype=object))
    assert "objects and pickles are never read" in refused(path)
    save_arrays(path, {"count": np.array(1)}, {})
    for name in ("mean.npy", "__bnspec__.npy", "mean", "mean.pkl"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, bomb)
        refused(path)
    member = io.BytesIO()
    np.lib.format.write_array(member, np.array([Bomb(marker)], dtype=object), version=(1, 0), allow_pickle=True)
    rewrite(path, {"mean.npy": member.getvalue()}, arrays={"mean": "float64"})
    refused(path)
    assert not marker.exists()


def npy(array: Any, **changes: Any) -> Any:
    """The text of a .npy array, optionally with another header."""
    buffer = io.BytesIO()
    header = {**np.lib.format.header_data_from_array_1_0(array), **changes}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


def rewrite(
    path: Path, members: Any, header: Any = None, compression: Any = zipfile.ZIP_STORED, **changes: Any
) -> None:
    """An .npz with these members, a right digest, and a header that is right except for `changes`, or is `header`."""
    right = {"format": "bnspec", "version": 2, "digest": "", "arrays": {"mean": "float64"}, "metadata": {}}
    text = header if header is not None else json.dumps({**right, **changes}).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, "__bnspec__.npy": npy(np.frombuffer(text, np.uint8))}.items():
            archive.writestr(name, data)
        archive.comment = b"bnspec sha256:" + b"0" * 64
    data = path.read_bytes()
    path.write_bytes(data[:-64] + hashlib.sha256(data).hexdigest().encode())


GOOD = {"mean.npy": npy(np.arange(3.0))}


def test_the_hand_written_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    rewrite(path, GOOD)
    assert equal_to_the_bit(load_arrays(path)[0]["mean"], np.arange(3.0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 1}, "its format version is 1"),
        ({"version": "2"}, "its format version is '2'"),
        ({"format": "other"}, "its header is not bnspec's"),
        ({"metadata": {"a": 1}}, "its header does not map names to dtypes and metadata to strings"),
        ({"metadata": None}, "its header does not map names to dtypes and metadata to strings"),
        ({"arrays": ["mean"]}, "its header does not map names to dtypes and metadata to strings"),
        ({"arrays": {}}, "it holds the arrays ['mean'] and its header lists []"),
        ({"arrays": {"mean": "float64", "var": "float64"}}, "its header lists ['mean', 'var']"),
        ({"arrays": {"mean": "float32"}}, "its array 'mean' is float64 and its header says float32"),
        ({"arrays": {"mean": "bfloat16"}}, "its array 'mean' is float64 and its header says bfloat16"),
        ({"header": b"[]"}, "its header is not bnspec's"),
        ({"header": b"{"}, ""),
        ({"header": b"\xff"}, ""),
        ({"header": b"[" * 100000}, ""),
        ({"compression": zipfile.ZIP_DEFLATED}, "its member 'mean.npy' is compressed"),
    ],
)
def test_a_bad_header_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "s.npz"
    rewrite(path, GOOD, **changes)
    assert reason in refused(path)


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY",
        b"not an array",
        npy(np.arange(3.0))[:-1],
        npy(np.arange(3.0)) + b"\0",
        npy(np.arange(3.0), shape=(10**15,)),
        npy(np.arange(3.0), shape=(-3,)),
        npy(np.arange(3.0), shape=(-1, -3)),
        npy(np.arange(0.0), shape=(0, 10**30)),
        npy(np.arange(3.0), descr="|O"),
        npy(np.arange(3.0), descr=[("a", "<f8")]),
        npy(np.arange(3.0), descr="|V8"),
        npy(np.arange(3.0)).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
        npy(np.arange(3.0)).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
    ],
)
def test_a_bad_member_is_refused(tmp_path: Path, member: Any) -> None:
    path = tmp_path / "s.npz"
    rewrite(path, {"mean.npy": member})
    refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    rewrite(path, GOOD)
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("mean.npy", npy(np.zeros(3)))
    assert "or is there twice" in refused(path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_npz_of_others_is_read_as_plain_arrays(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "s.npz"
    arrays = {"mean": np.arange(3.0), "wide": np.asfortranarray(np.ones((2, 3), ">f4")), "count": np.array(7)}
    write(path, **arrays)
    read, metadata = load_arrays(path)
    assert (list(read), metadata) == (list(arrays), {})
    assert all(np.array_equal(read[name], v) and read[name].shape == v.shape for name, v in arrays.items())
    assert all(v.dtype.isnative and v.flags.writeable for v in read.values())
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)
    np.savez(path, mean=np.array([{}], dtype=object))
    assert "objects and pickles are never read" in refused(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"k": "{}"}])
def test_safetensors_of_others_are_read_as_plain_arrays(tmp_path: Path, metadata: dict[str, Any] | None) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "s.safetensors"
    numpy.save_file({"mean": np.ones(3), "var": np.zeros(2, "float32")}, path, metadata)
    read, found = load_arrays(path)
    assert (sorted(read), found) == (["mean", "var"], {})
    assert equal_to_the_bit(read["mean"], np.ones(3))


def test_a_file_that_lost_one_of_its_marks_is_not_foreign(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    save_arrays(path, {"mean": np.ones(3)}, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
    assert "it has no digest at its end" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mean.npy", npy(np.ones(3)))
        archive.comment = b"bnspec sha256:" + b"0" * 64
    refused(path)


# --- what is no file to be read ---------------------------------------------------------------------------------------


def special(path: Path, kind: Any) -> None:
    """Something at the path that is no regular file."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a device", "a socket"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_file_is_refused_at_once(path: Path, kind: str) -> None:
    special(path, kind)
    with pytest.raises(ValueError, match=rf"is {kind}; expected a regular file \[BN-STATE-5\]"):
        load_arrays(path)


def test_a_file_longer_than_its_tables_say_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_arrays(path, {"mean": np.ones(3)}, {})
    data = path.read_bytes()
    with open(path, "r+b") as file:  # a sparse file: the directory of an .npz is looked for at its end
        file.truncate(1 << 40)
        if path.suffix == ".npz":
            file.seek((1 << 40) - len(data))
            file.write(data)
    refused(path)


# --- what a killed program left ---------------------------------------------------------------------------------------


def test_what_a_killed_program_left_is_removed_at_the_next_save(path: Path) -> None:
    code = (
        "import os, sys, numpy\nfrom bnspec._files.serialize import save_arrays\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\nsave_arrays(sys.argv[1], {'a': numpy.ones(3)}, {})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment)
    others = {".other.npz.0123456789abcdef.tmp", f".{path.name}.mine.tmp", f"{path.name}.0123456789abcdef.tmp"}
    for name in others:
        path.with_name(name).touch()
    assert len(os.listdir(path.parent)) == len(others) + 1
    save_arrays(path, {"a": np.ones(3)}, {})
    assert set(os.listdir(path.parent)) == {path.name} | others


def test_the_temporary_file_of_a_living_writer_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="without locks of files an open one cannot be removed")
    living = path.with_name(f".{path.name}.0123456789abcdef.tmp")
    with open(living, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save_arrays(path, {"a": np.ones(3)}, {})
        assert living.exists()
    save_arrays(path, {"a": np.ones(3)}, {})
    assert not living.exists()


def test_a_dtype_of_safetensors_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "s.safetensors"
    entry = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
    text = json.dumps({"mean": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"ab")
    assert "its array 'mean' has the dtype F8_E4M3" in refused(path)
