"""The life of a lake: killed at one named point, started again, killed at the next one, and so on to a good end.

A point can only be reached while its step is still to do; so the points of a life stand in the order of a run.
"""

from __future__ import annotations

KPIS = ("daily_genre", "top_songs", "top_genres", "hourly", "hourly_top_artists")


# Where one write follows another, after the one is before the other: one of both points is enough. (KPI tables are
# written side by side, so only before the progress it is sure that all of them are there.)
BEGINNING = [
    "take the lake's lock: before",
    "take the lake's lock: after",
    "lake.json: before",
    "lake.json: inside",
    "lake.json: after",
    "ops/ingested_files open: inside",
    "ops/ingested_files open: after",
    "ingested_files_copy.json.gz: after",
]
PUBLISHING = [
    f"kpis/{KPIS[0]} publish: before",
    *(f"kpis/{name} publish: after" for name in KPIS),
    "kpis/hourly_top_artists publish: inside",
    "ops/progress progress: before",
    "ops/progress progress: after",
]
# After the progress: only the export is left to do, so it alone is begun again each time.
EXPORTING = [
    "empty the export's folder: after",
    "export DailyGenreKPIs part-00000: inside",
    "export HourlyKPIs part-00000: after",
    "export manifest: inside",
    "export manifest: after",
]
ENDING = [
    "give back the lake's lock: before",
    "give back the lake's lock: after",
    "result.json: before",
    "result.json: after",
]

# Of an empty lake: first writes of tables, and what SECOND_DAY leaves out (the lock, `lake.json`, the ledger's copy,
# and what is in the midst of a commit).
FIRST_DAY = [
    *BEGINNING,
    "quarantine/records quarantine: inside",
    "staged/users stage: after",
    "staged/streams first write begun: inside",
    "staged/streams stage: inside",
    "kpis/hourly first write begun: after",
    "kpis/hourly publish: inside",
]
# Of a lake with data: a corrected file, a late one, new ones, a refused one, a song that changes.
SECOND_DAY = [
    "ops/ingested_files open: after",
    "ops/ingested_files recover: before",
    "ops/ingested_files recover: after",
    "quarantine/records quarantine: after",
    "staged/songs stage: after",
    "staged/streams stage: after",
    # Of the refused file; of all others recovery has seen that they are staged.
    "ops/ingested_files settle: before",
    "ops/ingested_files settle: after",
    *PUBLISHING,
    *EXPORTING,
    *ENDING,
]
