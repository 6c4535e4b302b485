"""A run's result by clause: a table, JSON, JUnit's XML and one HTML file, all made from the same document."""

from bnspec_conformance.report.badge import write_badge
from bnspec_conformance.report.files.failures import failure_head, read_failures, write_failures
from bnspec_conformance.report.files.live import RUNNING, Live, Output, Write
from bnspec_conformance.report.json_document import BadReport, document, read_report, write_json
from bnspec_conformance.report.junit import write_junit
from bnspec_conformance.report.pages.html_page import write_html
from bnspec_conformance.report.progress import Progress
from bnspec_conformance.report.statement import write_statement
from bnspec_conformance.report.summary import VERDICTS, by_clause
from bnspec_conformance.report.terminal_table import table

__all__ = [
    "RUNNING",
    "VERDICTS",
    "BadReport",
    "Live",
    "Output",
    "Progress",
    "Write",
    "by_clause",
    "document",
    "failure_head",
    "read_failures",
    "read_report",
    "table",
    "write_badge",
    "write_failures",
    "write_html",
    "write_json",
    "write_junit",
    "write_statement",
]
