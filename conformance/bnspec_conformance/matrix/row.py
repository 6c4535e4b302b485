"""Row of the divergence table: one subject with its report and the findings of the probe."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["MatrixRow"]


@dataclass
class MatrixRow:
    """One subject of the table.

    Attributes
    ----------
    subject : str
    report : dict or None
        Its report, or None; then `reason` says why there is none.
    findings : list of dict
        Conventions as `probe` measured them.
    reason : str
    seconds : float
    """

    subject: str
    report: dict[str, Any] | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name that the report has for the subject, which may differ from the one that it was asked by."""
        return self.subject if self.report is None else str(self.report["subjects"][0]["name"])

    @property
    def failed(self) -> bool:
        """True if something failed that no waiver covers, or a convention differs from the declared one."""
        checks = [] if self.report is None else self.report["checks"]
        return any(c["outcome"] in ("failed", "stale") for c in checks) or any(
            f["verdict"] == "differs" for f in self.findings
        )

    @property
    def broken(self) -> bool:
        """True if the adapter does not work: nothing was compared, its result was no outcome, or no probe ran."""
        checks = [] if self.report is None else self.report["checks"]
        # A number that is off is a number all the same; an error or a malformed outcome has none.
        compared = any(c["outcome"] == "passed" or (c["violation"] or {}).get("got") is not None for c in checks)
        return not compared or not self.findings or any("the check broke" in c["reason"] for c in checks)
