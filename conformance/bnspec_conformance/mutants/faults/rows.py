"""On what implementations of batch normalization differ in the world: the divergences that the mutants re-create."""

from collections.abc import Mapping

__all__ = ["ROWS"]

#: Each with what it is about.
ROWS: Mapping[str, str] = {
    "D1": "whether momentum weighs the old running value or the new one",
    "D2": "whether the running variance is Bessel-corrected",
    "D3": "what the Bessel correction of a single value is",
    "D4": "whether training on a single value per channel is allowed",
    "D5": "where epsilon stands: inside the root, outside, instead of a small variance, or nowhere",
    "D6": "which epsilon is accepted, and whether another takes its place",
    "D7": "whether ghost groups are contiguous or interleaved",
    "D8": "which ghost groups feed the running statistics, and how they are combined",
    "D9": "where debiased averages start, and what they are divided by",
    "D10": "what an empty batch does to the running statistics and the counter",
    "D11": "how many digits are left where the mean is far from zero",
    "D12": "in which precision statistics of 16-bit inputs are computed, kept and used",
    "D13": "whether ranks exchange variances or inverse deviations",
    "D14": "what a mask means to counts, outputs and a batch without elements",
    "D15": "whether ranks weigh by their elements or all alike",
    "D16": "whether gradients of the parameters are the rank's own or already joined",
    "D17": "whether one bad value may poison the running statistics for ever",
    "D18": "when the running statistics are updated: forward, backward, or later",
    "D19": "whether a recomputed forward pass updates a second time",
    "D20": "whether freezing, inference and not updating are one switch or three",
    "D21": "whose running statistics survive when every replica has its own",
    "D22": "what batch renormalization compares with, clips, averages and infers with",
    "D23": "whether a cumulative average weighs batches or elements",
    "D24": "which count undoes the correction when population statistics are pooled",
    "D25": "whether inference mixes batch statistics into the running ones",
    "D26": "what becomes of epsilon and absent parameters where a layer is folded into a scale and a shift",
    "D27": "gradients that a loss of sum y cannot tell from zero",
    "D28": "which mixtures and kinds of dtype are taken, refused or converted",
}
