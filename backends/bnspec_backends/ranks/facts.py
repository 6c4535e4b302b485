"""Facts that ranks must agree on in a collective, and the texts of a disagreement; shared by all communicators.

Facts are texts by name, such as ``{"layer": "'bn1'", "channels": "64"}``; they are compared field by field, so that an
error names each field that differs and the ranks that sent each value.
"""

import json
import sys
from collections.abc import Mapping, Sequence

from array_api_compat import device

from bnspec._communicator import Signature
from bnspec._errors import refusal
from bnspec._namespace import array_namespace
from bnspec._precision import is_array
from bnspec._types import Array

__all__ = ["DO_THE_SAME", "differences_of", "error_text", "facts_of", "layers_text", "met_text", "plain_array",
           "ranks_text", "signature_facts", "where"]  # fmt: skip

DO_THE_SAME = "Call the same layers in the same order, with the same options and input dtype, on every rank."


def facts_of(payload: Array, signature: Signature) -> dict[str, str]:
    """Return the facts that must be equal on all ranks of one process, field by field, as text."""
    plain_array(payload, signature)
    return signature_facts(payload, signature) | {
        "payload library": array_namespace(payload).__name__.removeprefix("array_api_compat."),
        "payload device": str(device(payload)),
    }


def signature_facts(payload: Array, signature: Signature) -> dict[str, str]:
    """Return the facts that must be equal on ranks whose libraries and devices may differ."""
    facts = {key: repr(value) for key, value in signature._asdict().items() if key != "options"}
    try:
        facts |= {f"options.{key}": json.dumps(value) for key, value in json.loads(signature.options).items()}
    except (AttributeError, ValueError):  # the options are no JSON object
        facts["options"] = repr(signature.options)
    return facts | {"payload shape": str(tuple(payload.shape)), "payload dtype": str(payload.dtype)}


def plain_array(payload: Array, signature: Signature) -> None:
    """Refuse a payload without values, or one whose gradient would end here unnoticed."""
    if type(payload).__module__ == "numpy":
        return
    tracer = getattr(getattr(sys.modules.get("jax"), "core", None), "Tracer", ())
    if isinstance(payload, tracer) or not is_array(payload):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is a {type(payload).__name__}",
            expected="an array that holds values, which ranks can exchange",
            do="Under jax.jit, grad or vmap use the library's own collectives; else call the layer eagerly.",
        )
    if getattr(payload, "requires_grad", False):
        raise refusal(
            TypeError,
            "BN-SYNC-9",
            got=f"the payload of layer {signature.layer!r} is part of a graph of automatic differentiation",
            expected="a plain array: a graph does not reach across ranks",
            do="Detach x and the parameters, and use batch_norm_vjp or layer.backward.",
        )


def differences_of(facts: Mapping[int, Mapping[str, str]]) -> str:
    """Return each field that differs between ranks, with the ranks that sent each value; empty if all agree."""
    keys = {key: None for each in facts.values() for key in each}
    if len({each.get("operation") for each in facts.values()}) > 1:  # operations have different fields
        keys = {key: None for key in keys if all(key in each for each in facts.values())}
    fields = []
    for key in keys:
        senders: dict[str, list[int]] = {}
        for rank, each in facts.items():
            senders.setdefault(each.get(key, "absent"), []).append(rank)
        if len(senders) > 1:
            fields.append(
                f"{key} ({' and '.join(f'{value} from {ranks_text(ranks)}' for value, ranks in senders.items())})"
            )
    return ", ".join(fields)


def layers_text(facts: Mapping[int, Mapping[str, str]]) -> str:
    """Return where the ranks are: ``layer 'bn1' (moments, collective 3) from ranks 0, 2``."""
    groups: dict[str, list[int]] = {}
    for rank, each in facts.items():
        groups.setdefault(where(each), []).append(rank)
    return " and ".join(f"{place} from {ranks_text(ranks)}" for place, ranks in groups.items())


def met_text(facts: Mapping[int, Mapping[str, str]]) -> str:
    """Return how ranks that met in one collective, with these facts each, differ."""
    return f"the ranks met in one collective with {layers_text(facts)}, and differ in {differences_of(facts)}"


def where(facts: Mapping[str, str]) -> str:
    """Return one rank's place in the program: ``layer 'bn1' (moments, collective 3)``."""
    return f"layer {facts['layer']} ({facts['operation'].strip(chr(39))}, collective {facts['sequence number']})"


def ranks_text(ranks: Sequence[int]) -> str:
    """Return ``rank 1`` or ``ranks 0, 2``."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def error_text(error: BaseException) -> str:
    """Return type and text of an error."""
    return f"{type(error).__name__}: {error}"
