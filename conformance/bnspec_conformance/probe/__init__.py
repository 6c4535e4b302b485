"""Probe: infer a subject's conventions from the outside, and compare them with the declared ones.

A subject is given inputs on which the known conventions give different numbers, and its results are matched with the
exact prediction of each. Neither its configuration nor its name is read to conclude anything. docs/probe.md says what
is measured, how, and what else a layer can offer: `default_layer`, `with_momentum`, `variable_names`, `timeline` and
`departures`.
"""

from bnspec_conformance.probe.findings import Finding
from bnspec_conformance.probe.run import GROUPS, probe

__all__ = ["GROUPS", "Finding", "probe"]
