"""The life of a lake: killed at one named point, started again, killed at the next one, and so on to a good end.

A point can only be reached while its step is still to do; so the points of a life stand in the order of a run.
"""

from __future__ import annotations

from tests.faults.points import AFTER, BEFORE, INSIDE

KPIS = ("daily_genre", "top_songs", "top_genres", "hourly", "hourly_top_artists")


def around(*names: str) -> list[str]:
    """All three points of writes."""
    return [f"{name}: {when}" for name in names for when in (BEFORE, INSIDE, AFTER)]


TAKING_IN = [
    "ops/ingested_files open: before",
    "ops/ingested_files open: inside",
    "ops/ingested_files open: after",
    "ops/ingested_files recover: before",
    "ops/ingested_files recover: after",
    "quarantine/records quarantine: before",
    "quarantine/records quarantine: inside",
    "quarantine/records quarantine: after",
]
PUBLISHING = [
    *(f"kpis/{name} publish: {when}" for name in KPIS for when in (BEFORE, AFTER)),
    "kpis/hourly_top_artists publish: inside",
    "ops/progress progress: before",
    "ops/progress progress: after",
]
# After the progress: only the export is left to do, so it alone is begun again each time.
EXPORTING = [
    "empty the export's folder: after",
    "export DailyGenreKPIs part-00000: inside",
    "export HourlyKPIs part-00000: after",
    "export manifest: before",
    "export manifest: inside",
    "export manifest: after",
]
ENDING = [
    "give back the lake's lock: before",
    "give back the lake's lock: after",
    "result.json: before",
    "result.json: after",
]
BEGINNING = ["take the lake's lock: before", "take the lake's lock: after"]

# Of an empty lake: first writes of tables, and what SECOND_DAY leaves out (the lock, `lake.json`, the ledger's copy).
FIRST_DAY = [
    *BEGINNING,
    *around("lake.json"),
    *TAKING_IN[:3],
    "ingested_files_copy.json.gz: before",
    "ingested_files_copy.json.gz: after",
    "quarantine/records quarantine: inside",
    "staged/users stage: before",
    "staged/users stage: after",
    "staged/streams first write begun: inside",
    "staged/streams stage: inside",
    "kpis/hourly first write begun: after",
    "kpis/hourly publish: inside",
]
# Of a lake with data: a corrected file, a late one, new ones, a song that changes. (In the midst of the quarantine's
# and the listens' commits is on the first day's list.)
SECOND_DAY = [
    *TAKING_IN[2:5],
    "quarantine/records quarantine: before",
    "quarantine/records quarantine: after",
    "staged/streams stage: before",
    "staged/songs stage: before",
    "staged/songs stage: after",
    "staged/streams stage: after",
    *PUBLISHING,
    *EXPORTING,
]
# All is staged and is not to be staged again.
SETTLING = ["ops/ingested_files settle: before", "ops/ingested_files settle: after"]
