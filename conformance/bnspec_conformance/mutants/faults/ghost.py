"""Mutants of ghost batches: which samples make a group, and which groups feed the running statistics."""

from bnspec._checks import arguments
from bnspec._config import BatchNormConfig
from bnspec._groups import split, unsplit
from bnspec._moments import moments
from bnspec._running import _feeds, _mean_of
from bnspec_conformance.mutants.mutant import Mutant, edit, together

__all__ = ["MUTANTS"]

_FIRST = 'if number == 1 or config.ghost_source == "first":\n'
_FEED = "return [_feed_of(group(stats, 0), config)]"
_EACH = 'return each if config.ghost_source == "sequential" else [_mean_of(each)]'

MUTANTS = (
    Mutant(
        name="group-per-sample",
        clause="BN-GRP-1",
        breaks="Normalizes every sample by itself where no virtual batch size is given.",
        apply=edit(
            arguments._forward,
            "return Groups(axis, 1)",
            "return Groups(axis, x.shape[0] if axis and x.shape[0] else 1)",
        ),
    ),
    Mutant(
        name="interleaved-groups",
        clause="BN-GRP-2",
        row="D7",
        breaks="Takes every G-th sample into a group where a group is a run of samples.",
        apply=together(
            edit(
                split,
                "return xp.reshape(x, (groups.number, samples, *x.shape[1:]))",
                "return xp.moveaxis(xp.reshape(x, (samples, groups.number, *x.shape[1:])), 1, 0)",
            ),
            edit(
                unsplit,
                "return array_namespace(grouped).reshape(grouped, like.shape)",
                "return array_namespace(grouped).reshape(array_namespace(grouped).moveaxis(grouped, 0, 1), like.shape)",
            ),
        ),
    ),
    Mutant(
        name="ragged-groups",
        clause="BN-GRP-3",
        row="D8",
        breaks="Takes a batch that the virtual batch size does not divide, as one group.",
        apply=edit(
            arguments._forward,
            "if x.shape[0] % virtual:",
            "if x.shape[0] % virtual:\n        return Groups(axis, 1)\n    if False:",
        ),
    ),
    Mutant(
        name="fractional-group-size",
        clause="BN-GRP-3",
        breaks="Takes a virtual batch size that is no integer.",
        apply=edit(
            BatchNormConfig.__post_init__,
            "if self.virtual_batch_size is not None:",
            "if isinstance(self.virtual_batch_size, int):",
        ),
    ),
    Mutant(
        name="groups-share-a-mean",
        clause="BN-GRP-4",
        breaks="Measures every group from the largest element of the first.",
        apply=edit(
            moments,
            "high = shift + total(v - spread(shift, x, groups)) / n",
            "shift = shift * 0.0 + shift[:1, ...]\n    high = shift + total(v - spread(shift, x, groups)) / n",
        ),
    ),
    Mutant(
        name="source-last",
        clause="BN-RUN-8",
        row="D8",
        breaks='Feeds the last group where ghost_source is "first".',
        apply=edit(
            _feeds, _FIRST + "        " + _FEED, _FIRST + "        " + _FEED.replace("stats, 0", "stats, number - 1")
        ),
    ),
    Mutant(
        name="source-mean-for-first",
        clause="BN-RUN-8",
        row="D8",
        breaks='Feeds the mean of the groups where ghost_source is "first".',
        apply=edit(_feeds, _FIRST, "if number == 1:\n"),
    ),
    Mutant(
        name="merged-as-mean",
        clause="BN-RUN-8",
        row="D8",
        breaks="Feeds the mean of the groups' variances as the merged one, without what lies between the groups.",
        apply=edit(_feeds, 'if config.ghost_source == "merged":', "if False:"),
    ),
    Mutant(
        name="sequential-in-reverse",
        clause="BN-RUN-8",
        row="D8",
        breaks="Feeds the groups from the last to the first.",
        apply=edit(_feeds, _EACH, _EACH.replace("return each if", "return each[::-1] if")),
    ),
    Mutant(
        name="sequential-as-one",
        clause="BN-RUN-8",
        row="D8",
        breaks='Updates once, with the mean of the groups, where ghost_source is "sequential".',
        apply=edit(_feeds, _EACH, "return [_mean_of(each)]"),
    ),
    Mutant(
        name="empty-groups-in-the-mean",
        clause="BN-RUN-8",
        row="D10",
        breaks="Divides the mean of the groups by their number, those without elements included.",
        apply=edit(_mean_of, "parts) / number", "parts) / float(len(each))"),
    ),
    Mutant(
        name="first-that-holds-something",
        clause="BN-RUN-8",
        row="D10",
        breaks="Feeds the first group that is not empty where group 0 is.",
        apply=edit(
            _feeds,
            _FIRST + "        " + _FEED,
            _FIRST + "        held = [j for j in range(number) if int(stats.count[j]) > 0] or [0]\n"
            "        " + _FEED.replace("stats, 0", "stats, held[0]"),
        ),
    ),
)
