"""The functions of the core whose source text mutants edit: whoever rewrites one of them looks at its mutants here.

All other mutants say nothing about the text of a function: they override methods of the kernels, or wrap a function.
"""

from collections.abc import Mapping

__all__ = ["EDITED"]

#: By dotted name, the mutants that edit it; in alphabetical order.
EDITED: Mapping[str, tuple[str, ...]] = {
    "bnspec._config.BatchNormConfig.__post_init__": (
        "debiased-without-decay",
        "epsilon-below-zero",
        "fractional-group-size",
        "keep-beside-a-counter",
        "pooled-mean-of-groups-taken",
        "renorm-with-other-averages",
    ),
    "bnspec._config.Renorm.__post_init__": ("limits-not-checked", "negative-dmax-taken"),
    "bnspec._files.disk.write_atomically": ("litter-after-a-failure",),
    "bnspec._files.npy.npy_header": ("pickles-loaded",),
    "bnspec._layer.layer.BatchNorm.__call__": (
        "collection-of-states",
        "frozen-warning-everywhere",
        "inference-updates",
        "internal-is-collected-too",
        "refused-call-is-kept",
        "refused-call-makes-variables",
        "update-in-backward",
    ),
    "bnspec._layer.layer.BatchNorm.backward": ("update-in-backward",),
    "bnspec_backends.ranks.rendezvous.Rendezvous._finish": ("order-of-arrival",),
    "bnspec_backends.ranks.threads.ThreadCommunicator.all_reduce": ("each-rank-from-itself",),
}
