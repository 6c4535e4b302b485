"""Reading and writing the file of waivers."""

import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from tomlkit.items import AoT

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.report.files.atomic_write import write_text
from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.run.waivers.settlement import Changes
from bnspec_conformance.run.waivers.waiver import GENERATED_DAYS, Waiver, parse_version

__all__ = ["WaiverError", "load_waivers", "write_changes"]

_KEYS = ("clause", "check", "when", "reason", "link", "expires")
_WHEN = ("subject", "dtype", "device", "version")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_HEAD = "Known failures; `bnspec-conformance run --waivers` reads them, docs/reports.md of bnspec describes the format."


class WaiverError(ValueError):
    """The file cannot be used; the text names the entry and what to write instead."""


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read a file of waivers; every entry must be complete and name what exists.

    Raises
    ------
    WaiverError
        For a file that cannot be read, is no TOML, or has an entry with an unknown key, clause, check, dtype or
        version, without a reason, or with an expiry that is no date.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except RecursionError:
        raise WaiverError(f"{path}: nested too deeply; expected only [[waiver]] tables.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:  # TOML that is none, or a number of too many digits
        raise WaiverError(f"{path}: {error}") from None
    unknown = sorted(set(content) - {"waiver"})
    if unknown:
        raise WaiverError(f"{path}: unknown key {unknown[0]!r}; expected only [[waiver]] tables.")
    entries = content.get("waiver", [])
    if not isinstance(entries, list):
        raise WaiverError(f"{path}: waiver is one table; write [[waiver]], with two brackets.")
    lines = [text.count("\n", 0, m.start()) + 1 for m in re.finditer(r"^[ \t]*\[\[[ \t]*waiver[ \t]*\]\]", text, re.M)]
    if len(lines) != len(entries):
        raise WaiverError(f"{path}: {len(entries)} waivers but {len(lines)} lines [[waiver]]; write each as a table.")
    return tuple(_entry(path, i, line, e) for i, (line, e) in enumerate(zip(lines, entries, strict=True), 1))


def write_changes(path: Path, changes: Changes, today: datetime.date) -> str:
    """Rewrite a file of waivers, which need not exist, and say what was done; what stays keeps its text and comments.

    Parameters
    ----------
    path : Path
    changes : Changes
    today : date
        A renewed waiver lasts `GENERATED_DAYS` from here.
    """
    if not (changes.drop or changes.renew or changes.new):
        return f"{path} fits: nothing to add, renew or remove"
    content = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    if not path.exists():
        content.add(tomlkit.comment(_HEAD))
        content.add(tomlkit.nl())
    tables: Any = content.get("waiver")
    for waiver in changes.renew:
        tables[waiver.entry - 1]["expires"] = today + datetime.timedelta(days=GENERATED_DAYS)
    for waiver in sorted(changes.drop, key=lambda w: -w.entry):
        del tables[waiver.entry - 1]
    if tables is None or not len(tables):
        content.pop("waiver", None)
        tables = AoT([])
        if changes.new:
            content.append("waiver", tables)
    for waiver in changes.new:
        tables.append(_table(waiver))
    write_text(path, tomlkit.dumps(content))
    counts = (len(changes.new), "added"), (len(changes.renew), "renewed"), (len(changes.drop), "removed")
    return f"{path}: " + ", ".join(f"{number} {what}" for number, what in counts if number)


def _entry(path: Path, number: int, line: int, value: Any) -> Waiver:
    def wrong(text: str) -> WaiverError:
        return WaiverError(f"{path}, entry {number} (line {line}): {text}")

    def text_of(table: dict[str, Any], key: str) -> str | None:
        found = table.get(key)
        if found is not None and not (isinstance(found, str) and found.strip()):
            raise wrong(f"{key} is {found!r}; expected a text.")
        return found

    for key in value:
        if key not in _KEYS:
            raise wrong(f"unknown key {key!r}; expected some of {', '.join(_KEYS)}.")
    when = value.get("when", {})
    if not isinstance(when, dict):
        raise wrong(f'when is {when!r}; expected a table such as {{subject = "torch-nn", dtype = "float16"}}.')
    for key in when:
        if key not in _WHEN:
            raise wrong(f"unknown condition {key!r}; expected some of {', '.join(_WHEN)}.")
    clause, check, reason = (text_of(value, key) for key in ("clause", "check", "reason"))
    if (clause is None) == (check is None):
        raise wrong("expected a clause or a check, and not both.")
    if clause is not None and clause not in specification_clauses():
        raise wrong(f"no clause {clause!r}; `bnspec-conformance list` shows them.")
    if check is not None and check not in all_checks():
        raise wrong(
            f"no check {check!r}; `bnspec-conformance list` shows them, such as test_running::test_exponential."
        )
    if reason is None:
        raise wrong('no reason; say why this failure is known, as in reason = "the kernel accumulates in float16".')
    subject, dtype, device, version = (text_of(when, key) for key in _WHEN)
    if dtype is not None and dtype not in _DTYPES:
        raise wrong(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}.")
    if version is not None:
        try:
            parse_version(version)
        except ValueError:
            raise wrong(f'version is {version!r}; expected specifiers such as ">=2.13,<2.14".') from None
    expires = value.get("expires")
    if expires is not None and type(expires) is not datetime.date:
        raise wrong(f"expires is {expires!r}; expected a date without quotes, such as 2027-01-01.")
    return Waiver(number, reason, clause, check, subject, dtype, device, version, text_of(value, "link"), expires, line)


def _table(waiver: Waiver) -> Any:
    table = tomlkit.table()
    if waiver.check is not None:
        # The clauses stand beside it for the reader; the name is what counts.
        table.add("check", tomlkit.item(waiver.check).comment(", ".join(all_checks()[waiver.check].clauses)))
    else:
        table.add("clause", str(waiver.clause))
    when = tomlkit.inline_table()
    for name in _WHEN:
        if getattr(waiver, name) is not None:
            when.append(name, getattr(waiver, name))
    if len(when):
        table.add("when", when)
    for name in ("reason", "link", "expires"):
        if getattr(waiver, name) is not None:
            table.add(name, getattr(waiver, name))
    return table
