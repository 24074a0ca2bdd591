"""Limits of how many different values a file may hold, so that no plan, nor a folder of the lake, grows by bad data."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset
from spark_app.config.settings import Settings
from spark_app.ingest.file_profile import FileProfile
from spark_app.ingest.validation import Checked


def too_many_values(
    checked: Checked, profiles: Mapping[int, FileProfile], settings: Settings, listen_day: Column
) -> dict[int, tuple[str, str]]:
    """Return (reason, message) by file_id for files with too many dates (of listens) or genres (of songs).

    Only files that may have that many are looked at again: those of long periods, or of many rows.
    """
    if checked.contract.dataset is Dataset.STREAMS:
        what, limit, value = "dates", settings.max_dates_per_file, listen_day
        suspects = [file_id for file_id, of in profiles.items() if of.days and of.days[1] - of.days[0] >= limit]
        mend = "split the file"
    elif checked.contract.dataset is Dataset.SONGS:
        what, limit, value = "genres", settings.max_genres_per_file, F.col("track_genre")
        suspects = [file_id for file_id, of in profiles.items() if of.kept > limit]
        mend = "are columns shifted, or free tags in the place of genres?"
    else:
        return {}
    if not suspects:
        return {}
    rows = checked.kept.where((F.col("lines") > 0) & F.col("file_id").isin(suspects))
    counted = rows.select("file_id", value.alias("value")).distinct().groupBy("file_id").count()
    return {
        row["file_id"]: (
            f"too_many_{what}",
            f"its rows have {row['count']:,} different {what}; at most {limit:,} are allowed (max_{what}_per_file): "
            + mend,
        )
        for row in counted.where(F.col("count") > limit).collect()
    }
