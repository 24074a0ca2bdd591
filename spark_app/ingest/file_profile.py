"""The first pass over new files: how many rows of each file meet which fate, before anything is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kpi_common.contracts import Contract, Severity
from spark_app.config.settings import Settings
from spark_app.ingest.csv_records import Block
from spark_app.ingest.validation import FORGOTTEN, Checked
from spark_app.spark.hash_join import rows_named


@dataclass
class FileProfile:
    """Counts of one file's rows before duplicates are taken out; `lines` are physical lines that are not blank.

    `blocks` are the parts that it was read in, by where they begin; see `line_records`.
    `days` are the first and the last day of what is kept of it, if that was asked for; see `count_by_flags`.
    """

    rows: int = 0
    lines: int = 0
    quarantined: int = 0
    forgotten: int = 0
    waiting: int = 0
    unknown_users: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    nulls: Counter[str] = field(default_factory=Counter)
    blocks: dict[int, Block] = field(default_factory=dict)
    days: tuple[int, int] | None = None

    @property
    def kept(self) -> int:
        """Rows that are neither quarantined nor of forgotten users (valid, or duplicates of such)."""
        return self.rows - self.quarantined - self.forgotten


FLAGS = ("broken_rules", "nulls", "is_header", "known_track", "known_user", "lines")


def count_by_flags(frame: DataFrame, *, by_lines: bool, day: Column | None = None) -> DataFrame:
    """Grain: rows of a file with the same FLAGS, of each block if `by_lines`, with their number as `row_count`.

    `first_day` and `last_day` are those of their `day`, a number; NULL without one.
    """
    keys = ["file_id", *(["block"] if by_lines else []), *FLAGS]
    first_row = [F.min("row").alias("first_row")] if by_lines else []
    of_day = F.lit(None).cast("bigint") if day is None else day
    days = [F.min(of_day).alias("first_day"), F.max(of_day).alias("last_day")]
    return frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("row_count"), *days, *first_row)


def profile_files(counted: DataFrame, checked: Checked, *, by_lines: bool) -> dict[int, FileProfile]:
    """Count rows by fate for each file_id, in one pass and one small shuffle.

    `counted` is from `count_by_flags`. `by_lines` says that its rows come from `line_records`: blank lines,
    which are no rows, and each file's own header line are among them then.
    """
    profiles: dict[int, FileProfile] = defaultdict(FileProfile)
    quarantine = checked.mask(Severity.QUARANTINE)
    groups = counted.collect()
    header_left = {row["file_id"] for row in groups} if by_lines else set()
    for row in sorted(groups, key=lambda row: not row["is_header"]):
        rows, lines = row["row_count"] if row["lines"] else 0, row["row_count"] * row["lines"]
        profile = profiles[row["file_id"]]
        if row["is_header"] and row["file_id"] in header_left:
            header_left.remove(row["file_id"])
            rows, lines = rows - 1, lines - 1
        _add(profile, row, rows, lines, checked, quarantine)
        if by_lines:
            block = profile.blocks.get(row["block"], Block(row["first_row"], 0))
            first_row = min(block.first_row, row["first_row"])
            profile.blocks[row["block"]] = Block(first_row, block.lines + row["row_count"])
    return profiles


def _add(profile: FileProfile, row: Any, rows: int, lines: int, checked: Checked, quarantine: int) -> None:
    profile.rows += rows
    profile.lines += lines
    if row["broken_rules"] == FORGOTTEN:
        profile.forgotten += rows
        return
    for reason in checked.reasons(row["broken_rules"]):
        profile.by_reason[reason] += rows
    for bit, name in enumerate(checked.contract.names):
        if row["nulls"] >> bit & 1:
            profile.nulls[name] += rows
    if row["broken_rules"] & quarantine:
        profile.quarantined += rows
    else:
        profile.waiting += 0 if row["known_track"] else rows
        profile.unknown_users += 0 if row["known_user"] else rows
        if row["first_day"] is not None:
            known = profile.days or (row["first_day"], row["last_day"])
            profile.days = min(known[0], row["first_day"]), max(known[1], row["last_day"])


def max_rows_per_day(profiles: Iterable[FileProfile]) -> int:
    """No day has more kept rows than this, as every file might have all of its rows on any of its days."""
    changes: Counter[int] = Counter()
    for profile in profiles:
        if profile.days is not None:
            first, last = profile.days
            changes[first] += profile.kept
            changes[last + 1] -= profile.kept
    return max(accumulate(changes[day] for day in sorted(changes)), default=0)


@dataclass(frozen=True)
class References:
    """Keys that listens are looked up in: (track_id) and (user_id), each unique; None where they don't matter.

    If they are `many`, they need not be unique, and must be cut down to those that are named before a look-up.
    """

    tracks: DataFrame | None = None
    users: DataFrame | None = None
    many: bool = False

    def named_by(self, listens: DataFrame, keep: Callable[[DataFrame], DataFrame]) -> References:
        """Return those that these listens name, looked for at once; `keep` holds them for what follows."""

        def chosen(keys: DataFrame | None) -> DataFrame | None:
            if keys is None:
                return None
            named = keep(rows_named(keys, listens, keys.columns[0]).distinct())
            named.count()
            return F.broadcast(named)

        return References(chosen(self.tracks), chosen(self.users))

    def look_up(self, frame: DataFrame) -> DataFrame:
        """Add `known_track` and `known_user` (one row in, one row out)."""
        return _flagged(_flagged(frame, self.tracks, "track_id", "known_track"), self.users, "user_id", "known_user")


def _flagged(frame: DataFrame, keys: DataFrame | None, column: str, flag: str) -> DataFrame:
    if keys is None:
        return frame.withColumn(flag, F.lit(True))
    known = keys.select(column, F.lit(True).alias(flag))
    return frame.join(known, on=column, how="left").withColumn(flag, F.coalesce(flag, F.lit(False)))


def verdict(profile: FileProfile, checked: Checked, settings: Settings) -> tuple[str, str] | None:
    """Return (reason, message) if the file must be rejected for its rows."""
    for check in checked.checks:
        if check.severity is Severity.REJECT_FILE and profile.by_reason[check.reason]:
            return (
                check.reason,
                f"{profile.by_reason[check.reason]} of {profile.rows} rows break the rule {check.reason}",
            )
    if profile.quarantined > settings.max_quarantined_share * profile.rows:
        most = ", ".join(f"{reason} {count}" for reason, count in quarantine_reasons(profile, checked).items())
        return "too_many_quarantined", (
            f"{profile.quarantined} of {profile.rows} rows are bad ({most}); "
            f"allowed is a share of {settings.max_quarantined_share} (max_quarantined_share)"
        )
    if profile.waiting > settings.max_waiting_share * profile.rows:
        return "too_many_waiting", (
            f"the tracks of {profile.waiting} of {profile.rows} rows are in no songs file; "
            f"allowed is a share of {settings.max_waiting_share} (max_waiting_share)"
        )
    return None


def quarantine_reasons(profile: FileProfile, checked: Checked) -> dict[str, int]:
    """Rows by quarantine reason, most first (a row with two reasons counts in both)."""
    known = {check.reason for check in checked.checks if check.severity is Severity.QUARANTINE}
    return {reason: count for reason, count in profile.by_reason.most_common() if reason in known and count}


def quality(profile: FileProfile, contract: Contract) -> dict[str, Any]:
    """Shares of NULLs by column and of broken rules, of all rows of the file."""
    return _shares(profile.rows, profile.nulls, profile.by_reason, contract.names)


def _shares(rows: int, nulls: Counter[str], by_reason: Counter[str], names: Iterable[str]) -> dict[str, Any]:
    def share(count: int) -> float:
        return round(count / rows, 6) if rows else 0.0

    return {
        "rows": rows,
        "null_share": {name: share(nulls[name]) for name in names},
        "broken_share": {reason: share(count) for reason, count in by_reason.items() if count},
    }


def dataset_quality(profiles: Iterable[FileProfile], contract: Contract) -> dict[str, Any]:
    """The same shares over several files of a dataset."""
    total = FileProfile()
    for profile in profiles:
        total.rows += profile.rows
        total.nulls += profile.nulls
        total.by_reason += profile.by_reason
    return _shares(total.rows, total.nulls, total.by_reason, contract.names)
