"""Mutants of synchronization: weights, sums, order, messages, and what ranks agree on."""

from typing import Any

from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._derivatives import batch_norm_tangents
from bnspec._kernels import Kernels
from bnspec._sync import join_moments, join_sums, signature
from bnspec_backends.ranks.rendezvous import Rendezvous
from bnspec_backends.ranks.threads import ThreadCommunicator
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]

_WEIGHT = "weight = xp.astype(n > 0, dtype) if by_rank else n"
_SPREAD = "spread = local.var if by_rank else local.m2"
_SUMS = "s1, s2, *extra = join_sums([s1, s2, *extra], comm, about)"


def _silent_if_empty(original: Any, local: Any, config: Any, comm: Any, about: Any) -> Any:
    if comm is not None and not int(local.count.sum()):
        comm = None
    return original(local, config, comm, about)


def _twice(original: Any, local: Any, config: Any, comm: Any, about: Any) -> Any:
    original(local, config, comm, about)
    return original(local, config, comm, about)


def _at_inference(original: Any, x: Any, params: Any, state: Any, config: Any, **named: Any) -> Any:
    from bnspec_backends.ranks import threads

    y, saved = original(x, params, state, config, **named)
    try:
        comm = threads.current()
    except RuntimeError:
        return y, saved
    about = signature(comm, "moments", "inference", x, state.mean[None, :], config)
    mean = join_sums([state.mean[None, :]], comm, about)[0][0, :] / comm.size
    return original(x, params, state._replace(mean=mean.astype(state.mean.dtype)), config, **named)


def _own_statistics(original: Any, x: Any, params: Any, config: Any, **named: Any) -> Any:
    y, stats, saved = original(x, params, config, **named)
    if named.get("comm") is not None:
        stats = original(x, params, config, **(named | {"comm": None}))[1]
    return y, stats, saved


MUTANTS = (
    Mutant(
        name="ranks-weigh-alike",
        clause="BN-SYNC-1",
        row="D15",
        breaks='Gives every rank the same weight although sync_weighting is "count".',
        apply=edit(join_moments, 'by_rank = config.sync_weighting == "rank"', "by_rank = True"),
    ),
    Mutant(
        name="ranks-weigh-by-samples",
        clause="BN-SYNC-3",
        row="D15",
        breaks="Weighs ranks by samples where ranks differ in elements per sample.",
        apply=edit(
            Kernels.forward,
            "stats, divisor = join_moments(local, config, comm,",
            "samples = local.count * 0 + x.shape[0] // groups.number if groups.number else local.count\n"
            "    if comm is not None and mask is None and x.size:\n"
            "        local = local._replace(count=samples, m2=local.var * samples[:, None])\n"
            "    stats, divisor = join_moments(local, config, comm,",
        ),
    ),
    Mutant(
        name="ranks-send-inverse-deviations",
        clause="BN-SYNC-1",
        row="D13",
        breaks="Sends 1/sqrt(var + epsilon) in float32, and takes the variance back out of it.",
        apply=edit(
            join_moments,
            _SPREAD,
            "istd = xp.astype(1.0 / xp.sqrt(local.var + config.epsilon), xp.float32)\n"
            "    spread = xp.astype(1.0 / (istd * istd), dtype) - config.epsilon\n"
            "    spread = spread if by_rank else spread * n[:, None]",
        ),
    ),
    Mutant(
        name="mean-of-variances-of-ranks",
        clause="BN-SYNC-1",
        row="D15",
        breaks="Averages the ranks' variances and drops what lies between their means.",
        apply=edit(
            join_moments,
            "lambda a, b: merge(a, b, added)",
            "lambda a, b: xp.concat([merge(a, b, added)[:, :-c], a[:, -c:] + b[:, -c:]], axis=1)",
        ),
    ),
    Mutant(
        name="every-rank-its-own-state",
        clause="BN-SYNC-2",
        row="D21",
        breaks="Normalizes by joined statistics and feeds the running state with the rank's own.",
        apply=wrap(batch_norm, _own_statistics),
    ),
    Mutant(
        name="order-of-arrival",
        clause="BN-SYNC-2",
        breaks="Combines the ranks in the order in which they arrive.",
        apply=edit(
            Rendezvous._finish,
            "meeting.results = finish([deposit.payload for deposit in deposits])",
            "meeting.results = finish([deposit.payload for deposit in meeting.deposits.values()])",
        ),
    ),
    Mutant(
        name="each-rank-from-itself",
        clause="BN-SYNC-2",
        breaks="Folds on each rank from its own payload on, so that ranks differ in the last bits.",
        apply=edit(
            ThreadCommunicator.all_reduce,
            "return [xp.asarray(total, copy=True) for _ in payloads]",
            "turned = [payloads[k:] + payloads[:k] for k in range(len(payloads))]\n"
            "        return [xp.asarray(functools.reduce(combine, each), copy=True) for each in turned]",
        ),
    ),
    Mutant(
        name="empty-rank-divides-by-zero",
        clause="BN-SYNC-3",
        row="D10",
        breaks="Divides by the count 0 of a rank without elements.",
        apply=edit(join_moments, _SPREAD, _SPREAD + "\n    spread = spread * (n / n)[:, None]"),
    ),
    Mutant(
        name="empty-rank-has-weight",
        clause="BN-SYNC-8",
        row="D15",
        breaks="Gives a rank without elements the weight of the others.",
        apply=edit(join_moments, _WEIGHT, "weight = xp.ones_like(n) if by_rank else n"),
    ),
    Mutant(
        name="nan-rank-left-out",
        clause="BN-SYNC-4",
        row="D17",
        breaks="Leaves a rank with NaN out of the joined statistics.",
        apply=edit(
            join_moments,
            "columns = _count_columns(local.count, n, weight, by_rank)",
            "kept = xp.astype(xp.all(xp.isfinite(local.m2), axis=1), dtype)\n"
            "    columns = _count_columns(local.count, n * kept, weight * kept, by_rank)",
        ),
    ),
    Mutant(
        name="groups-joined-in-reverse",
        clause="BN-SYNC-5",
        row="D7",
        breaks="Joins group j of one rank with the last but j of the others.",
        apply=edit(
            join_moments,
            "n = xp.astype(local.count, dtype)\n",
            "local = Moments(*(v[::-1, ...] for v in local)) if comm is not None and comm.rank else local\n"
            "    n = xp.astype(local.count, dtype)\n",
        ),
    ),
    Mutant(
        name="gradient-without-collective",
        clause="BN-SYNC-6",
        row="D15",
        breaks="Takes the gradient sums of dx from the rank's own elements.",
        apply=edit(Kernels.pull_back, _SUMS, "alone = s1, s2, *extra\n    " + _SUMS + "\n    s1, s2, *extra = alone"),
    ),
    Mutant(
        name="gradient-of-the-mean-loss",
        clause="BN-SYNC-6",
        breaks="Divides dx by the number of ranks.",
        apply=edit(
            Kernels.pull_back,
            "dx = kernels.grad_input(g, x, saved.centre, a, b, c, groups, saved.mask)",
            "a, b, c = (v if comm is None else v / comm.size for v in (a, b, c))\n"
            "    dx = kernels.grad_input(g, x, saved.centre, a, b, c, groups, saved.mask)",
        ),
    ),
    Mutant(
        name="cotangents-not-joined",
        clause="BN-SYNC-6",
        breaks="Takes the cotangents of the statistics from the rank alone.",
        apply=edit(Kernels.pull_back, _SUMS, "own = list(extra)\n    " + _SUMS + "\n    extra = own"),
    ),
    Mutant(
        name="dgamma-joined",
        clause="BN-SYNC-7",
        row="D16",
        breaks="Returns dgamma and dbeta summed over the ranks.",
        apply=edit(
            Kernels.pull_back, _SUMS, _SUMS + "\n    dgamma, dbeta = _gradients.parameter_gradients(s1, s2, saved)"
        ),
    ),
    Mutant(
        name="options-not-compared",
        clause="BN-SYNC-9",
        breaks="Joins ranks whose configurations differ.",
        apply=edit(signature, "_options(config))", '"{}")'),
    ),
    Mutant(
        name="layers-not-compared",
        clause="BN-SYNC-9",
        breaks="Joins ranks that are in different layers.",
        apply=edit(signature, "Signature(operation, name,", 'Signature(operation, "layer",'),
    ),
    Mutant(
        name="inference-communicates",
        clause="BN-SYNC-10",
        breaks="Averages running means over the ranks at inference.",
        apply=wrap(batch_norm_inference, _at_inference),
    ),
    Mutant(
        name="empty-rank-silent",
        clause="BN-SYNC-11",
        row="D10",
        breaks="Sends nothing from a rank without elements.",
        apply=wrap(join_moments, _silent_if_empty),
    ),
    Mutant(
        name="two-messages",
        clause="BN-SYNC-11",
        breaks="Sends two messages per forward pass.",
        apply=wrap(join_moments, _twice),
    ),
    Mutant(
        name="tangents-not-joined",
        clause="BN-SYNC-1",
        row="D15",
        breaks="Takes the tangents of mean and variance from the rank's own elements.",
        apply=edit(
            batch_norm_tangents,
            "mean_dot, var_dot = join_sums([s1 / n, 2.0 * (s2 / n)], comm, about)",
            "join_sums([s1 / n, 2.0 * (s2 / n)], comm, about)\n        mean_dot, var_dot = s1 / n, 2.0 * (s2 / n)",
        ),
    ),
)
