"""Check of payloads: floating CuPy arrays on the communicator's device, on a stream that is not captured."""

from typing import Any

import cupy

from bnspec._communicator import Signature
from bnspec._errors import refusal
from bnspec._types import Array

__all__ = ["check_payload"]


def check_payload(payload: Array, signature: Signature, device: Any) -> None:
    """Refuse a payload that is no CuPy array, is on another device or has no NaN; and a captured stream."""
    kind = type(payload)
    if not isinstance(payload, cupy.ndarray):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is a {kind.__module__.split('.')[0]}.{kind.__name__}",
            expected="an array of CuPy's, on a device",
            do="Give the layer CuPy arrays, or take the communicator 'mpi', which joins arrays of every library.",
        )
    if payload.dtype.kind != "f":
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is of {payload.dtype}",
            expected="a floating dtype, which has NaN for what must not be used",
            do="Convert it to float64.",
        )
    current = cupy.cuda.Device().id
    if not payload.device.id == current == device.id:
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is on device {payload.device.id} while {current} is current",
            expected=f"device {device.id}, which was current where the communicator was made",
            do=f"Call cupy.cuda.Device({device.id}).use() on each thread that calls layers or makes their arrays.",
        )
    if cupy.cuda.get_current_stream().is_capturing():
        raise refusal(
            ValueError,
            "BN-SYNC-9",
            got=f"layer {signature.layer!r} on a stream that is being captured",
            expected="a stream that runs: a graph would send one sequence number for ever",
            do="Capture the passes between the collectives, or call the layer outside of the graph.",
        )
