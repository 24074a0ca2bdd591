"""Validation: the contract's rules as columns of a frame, one bit a rule, and what becomes of each row.

`check` adds the bits; a row whose bits hold a quarantine rule is set aside, any other is kept. Both halves are
exact complements, and the reasons are read back from the bits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, and_, or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from kpi_common.contracts import BROKEN_QUOTES, Contract, Rule, Severity
from kpi_common.contracts import Column as ContractColumn
from spark_app.config.settings import Settings
from spark_app.ingest.csv_records import BYTE_ORDER_MARK, UNCLOSED_QUOTE, WRONG_COLUMN_COUNT
from spark_app.spark.columns import instant_to_local, local_to_instant, names_list, optimizer_barrier

INTEGER = r"^[+-]?[0-9]{1,19}$"
_CLOCK = r"^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
TIMESTAMP = f"{_CLOCK}$"
WITH_OFFSET = f"{_CLOCK}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})$"
SECONDS, MILLISECONDS = r"^[0-9]{1,11}(\.[0-9]{1,6})?$", "^[0-9]{1,14}$"
_MICROS = 1_000_000
SUSPICIOUS_NULL = "suspicious_null"
HTML_ENTITY = "html_entity"
SUSPICIOUS = ("null", "none", "nan", "n/a", "na", "nil", "undefined", "\\n", "(null)", "<null>")
_ENTITY = r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
FORGOTTEN = 1 << 62  # a bit of broken_rules, alone there: the row names a user who is forgotten


@dataclass(frozen=True)
class Check:
    """One rule ready to run: `broken` is true where a row breaks it, and never NULL."""

    reason: str
    column: str | None
    severity: Severity
    broken: Column


@dataclass(frozen=True)
class Checked:
    """A frame with typed columns, `broken_rules` (bits by position in `checks`) and `nulls` (bits by column)."""

    frame: DataFrame
    contract: Contract
    checks: tuple[Check, ...]

    def mask(self, severity: Severity) -> int:
        """Bits of all rules of a severity."""
        return sum(1 << bit for bit, check in enumerate(self.checks) if check.severity is severity)

    def reasons(self, bits: int) -> list[str]:
        """Reason codes of the rules in a bit mask, in the contract's order."""
        return [check.reason for bit, check in enumerate(self.checks) if bits >> bit & 1]

    def reasons_column(self) -> Column:
        """All quarantine reasons of a row, as an array of codes."""
        bits = F.col("broken_rules")
        codes = [
            F.when(bits.bitwiseAND(F.lit(1 << bit)) != 0, check.reason)
            for bit, check in enumerate(self.checks)
            if check.severity is Severity.QUARANTINE
        ]
        return F.array_compact(F.array(*codes))

    @property
    def quarantined(self) -> Column:
        """Whether a row is set aside."""
        return F.col("broken_rules").bitwiseAND(F.lit(self.mask(Severity.QUARANTINE))) != 0

    @property
    def kept(self) -> DataFrame:
        """Rows that are neither set aside nor of a forgotten user, with typed columns."""
        dropped = self.mask(Severity.QUARANTINE) | FORGOTTEN
        return self.frame.where(F.col("broken_rules").bitwiseAND(F.lit(dropped)) == 0)


def check(fields: DataFrame, contract: Contract, settings: Settings, *, decomposed: bool = False) -> Checked:
    """Type the text columns of `split_fields` and evaluate every rule (one row in, one row out).

    A broken structure (unclosed or broken quotes, wrong number of fields) hides all other rules of its row.
    `decomposed` says that some texts may not be in the `unicode_form` of their columns.
    """
    carried = [name for name in fields.columns if name not in contract.names]
    typed = fields.select(
        *carried,
        *(F.col(column.name).alias(_text(column.name)) for column in contract.columns),
        *(_typed(column, settings, decomposed=decomposed).alias(column.name) for column in contract.columns),
    )
    checks = [
        Check(reason, None, Severity.QUARANTINE, _holds(F.col("structure") == reason))
        for reason in (UNCLOSED_QUOTE, BROKEN_QUOTES, WRONG_COLUMN_COUNT)
    ]
    for column in contract.columns:
        checks += _column_checks(column)
    checks += [_rule_check(rule, settings) for rule in contract.rules]
    texts = [F.col(_text(column.name)) for column in contract.columns if column.is_text]
    checks += [
        Check(SUSPICIOUS_NULL, None, Severity.WARN, _any(_means_nothing, texts)),
        Check(HTML_ENTITY, None, Severity.WARN, _any(_has_entity, texts)),
    ]
    broken = _bits([(1 << bit, rule.broken) for bit, rule in enumerate(checks)])
    missing = _bits([(1 << bit, F.col(_text(column.name)).isNull()) for bit, column in enumerate(contract.columns)])
    frame = typed.select(
        *carried,
        *contract.names,
        optimizer_barrier(broken).alias("broken_rules"),
        missing.alias("nulls"),
        is_header(contract).alias("is_header"),
    )
    return Checked(frame, contract, tuple(checks))


def is_header(contract: Contract) -> Column:
    """Whether a row repeats the names of the required columns: a header line among the data."""

    def named(text: Column, name: str) -> Column:
        without_mark = F.replace(text, F.lit(BYTE_ORDER_MARK), F.lit(""))
        return (text == name) | (text.contains(BYTE_ORDER_MARK) & (without_mark == name))

    return reduce(and_, [_holds(named(F.col(_text(name)), contract.source_name(name))) for name in contract.required])


def warning_notes(by_reason: Mapping[str, int]) -> list[str]:
    """Say in words what the rows of a file have that may be a mistake of its source."""
    counted = {
        SUSPICIOUS_NULL: "rows hold NULL, None, nan or the like as text: if it means nothing, add it to `null_values` "
        "of the contract",
        HTML_ENTITY: "rows hold HTML entities such as &amp;: a name with one is another name than without",
    }
    return [f"{by_reason[reason]} {text}" for reason, text in counted.items() if by_reason.get(reason)]


def _any(test: Callable[[Column], Column], texts: list[Column]) -> Column:
    return reduce(or_, [_holds(test(text)) for text in texts], F.lit(False))


def _means_nothing(text: Column) -> Column:
    """Most texts are longer, and to see that is much cheaper."""
    return (F.octet_length(text) <= max(map(len, SUSPICIOUS))) & F.lower(text).isin(list(SUSPICIOUS))


def _has_entity(text: Column) -> Column:
    return text.contains("&") & text.rlike(_ENTITY)


@F.udf(T.StringType())
def _composed(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFC", text)


def _typed(column: ContractColumn, settings: Settings, *, decomposed: bool) -> Column:
    text = F.col(column.name)
    if column.unicode_form and decomposed:
        return _composed(text)
    if column.type == "bigint":
        number = text.cast("bigint")
        as_usual = number.cast("string") == text  # which INTEGER then matches: cheaper to see
        return F.when(as_usual | text.rlike(INTEGER), number)
    if column.type == "timestamp":
        return _instant(text, column.forms, settings.source_time_zone)
    return text


def _instant(text: Column, forms: Sequence[str], zone: str) -> Column:
    """Read a time in one of these forms; Spark's own cast knows `Z` and offsets."""
    ways = {
        "local": (TIMESTAMP, local_to_instant(text.cast("timestamp"), zone)),
        "offset": (WITH_OFFSET, text.cast("timestamp")),
        "epoch_seconds": (SECONDS, F.timestamp_micros((text.cast("decimal(17,6)") * _MICROS).cast("bigint"))),
        "epoch_milliseconds": (MILLISECONDS, F.timestamp_millis(text.cast("bigint"))),
    }
    return F.coalesce(*(F.when(text.rlike(ways[form][0]), ways[form][1]) for form in forms))


def _text(name: str) -> str:
    return f"{name} as text"


def _whole() -> Column:
    return F.col("structure").isNull()


def _column_checks(column: ContractColumn) -> list[Check]:
    text, typed = F.col(_text(column.name)), F.col(column.name)
    absent = text.isNull() | (F.size(names_list(text)) == 0) if column.type == "names" else text.isNull()
    checks = []
    if column.required:
        checks.append(Check(f"missing_{column.name}", column.name, Severity.QUARANTINE, _holds(_whole() & absent)))
    if column.is_text:
        too_long = _whole() & (F.octet_length(text) > column.max_bytes)
        checks.append(Check(f"too_long_{column.name}", column.name, Severity.QUARANTINE, _holds(too_long)))
    else:
        invalid = _whole() & text.isNotNull() & typed.isNull()
        checks.append(Check(f"invalid_{column.name}", column.name, column.invalid, _holds(invalid)))
    return checks


def _rule_check(rule: Rule, settings: Settings) -> Check:
    typed = F.col(rule.column)
    if rule.check == "range":
        bounds = [(typed < _bound(rule.min)) if rule.min is not None else None]
        bounds.append((typed > _bound(rule.max)) if rule.max is not None else None)
        outside = reduce(or_, [bound for bound in bounds if bound is not None])
    elif rule.check == "not_after_file":
        # In microseconds: to add an interval to a time is a detour through the clock's fields, for each row.
        tolerance = F.lit(int(settings.in_future_tolerance_hours * 3600 * _MICROS)).cast("bigint")
        outside = F.unix_micros(typed) - F.unix_micros("file_modified_at") > tolerance
    elif settings.source_time_zone == "UTC":
        outside = F.lit(False)
    else:
        read_back = instant_to_local(typed, settings.source_time_zone)
        text = F.col(_text(rule.column))
        outside = (read_back != text.cast("timestamp")) & text.rlike(TIMESTAMP)
    return Check(rule.reason, rule.column, rule.severity, _holds(_whole() & outside))


def _bound(value: int | str | None) -> Column:
    return F.lit(value).cast("timestamp") if isinstance(value, str) else F.lit(value)


def _holds(condition: Column) -> Column:
    return F.coalesce(condition, F.lit(False))


def _bits(flags: list[tuple[int, Column]]) -> Column:
    parts = [F.when(flag, bit).otherwise(0) for bit, flag in flags]
    return reduce(add, parts).cast("bigint")
