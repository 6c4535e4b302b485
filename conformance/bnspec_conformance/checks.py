"""Which checks prove which clause."""

import importlib
import pkgutil

import bnspec_conformance

__all__ = ["checks"]


def checks() -> dict[str, list[str]]:
    """Map clause ids to the names of their checks, ``module::function``."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(bnspec_conformance.__path__):
        if not module.name.startswith("test_"):
            continue
        loaded = importlib.import_module(f"bnspec_conformance.{module.name}")
        for name, value in vars(loaded).items():
            if name.startswith("test_"):
                for clause in getattr(value, "clauses", ()):
                    found.setdefault(clause, []).append(f"{module.name}::{name}")
    return found
