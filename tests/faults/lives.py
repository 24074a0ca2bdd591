"""The life of a lake: broken off at one named point, started again, broken off at the next, and so on to a good end.

A point can only be reached while its step is still to do; so the points of a life stand in the order of a run. Where
one write follows another, after the one is before the other: one of both points is enough.
"""

from __future__ import annotations

from tests.faults.harness import Plan


def killed(point: str) -> Plan:
    """SIGKILL to the whole process group."""
    return Plan(point)


def reply_lost(point: str) -> Plan:
    """The write is done and then reports failure, so that the run fails."""
    return Plan(point, "lose")


# Of an empty lake: in the midst of writes, first writes of tables, and what SECOND_DAY leaves out.
FIRST_DAY = [
    killed("take the lake's lock: after"),
    killed("lake.json: inside"),
    reply_lost("lake.json: after"),
    killed("ops/state.json judge: inside"),
    reply_lost("ops/state.json open: after"),
    killed("quarantine/records quarantine: inside"),
    killed("staged/users stage: after"),
    reply_lost("staged/songs stage: after"),
    killed("staged/streams first write begun: inside"),
    killed("staged/streams stage: inside"),
    reply_lost("ops/state.json recover: after"),
    killed("a shard of ops/files: after"),
    killed("kpis/hourly publish: inside"),
    reply_lost("kpis/top_songs publish: after"),
    reply_lost("ops/state.json progress: after"),
    reply_lost("export manifest: after"),
]
# Of a lake with data: a corrected file, a late one, new ones, a refused one, a song that changes.
SECOND_DAY = [
    killed("ops/state.json open: after"),
    killed("ops/state.json recover: after"),
    killed("quarantine/records quarantine: after"),
    killed("staged/songs stage: after"),
    killed("staged/streams stage: after"),
    # Of the refused file; of all others recovery has seen that they are staged.
    killed("ops/state.json open: inside"),
    killed("ops/state.json settle: inside"),
    killed("ops/state.json settle: after"),
    # KPI tables are written side by side: only before the progress it is sure that all of them are there.
    killed("kpis/daily_genre publish: after"),
    killed("kpis/top_songs publish: after"),
    killed("kpis/top_genres publish: after"),
    killed("kpis/hourly publish: after"),
    killed("kpis/hourly_top_artists publish: after"),
    killed("ops/state.json progress: before"),
    killed("ops/state.json progress: after"),
    # Only the export is left to do, so it alone is begun again each time.
    killed("export DailyGenreKPIs part-00000: inside"),
    killed("export HourlyKPIs part-00000: after"),
    killed("export manifest: inside"),
    killed("export manifest: after"),
    killed("result.json: after"),
    killed("give back the lake's lock: after"),
]
# Of forgetting a user: the lake of the first day, with the input that it was made of.
FORGETTING = [
    killed("forgotten.json: inside"),
    reply_lost("forgotten.json: after"),
    killed("staged/streams forget: inside"),
    killed("staged/streams forget: after"),
    killed("staged/users forget: after"),
    reply_lost("quarantine/records forget: after"),
    killed("ops/state.json rewrite: after"),
    killed("both.csv: inside"),
    # The file is another one, and the ledger does not know it yet.
    killed("both.csv: after"),
    killed("two.csv: after"),
    killed("ops/state.json rewritten: inside"),
    killed("kpis/hourly publish: after"),
    killed("ops/state.json progress: after"),
    killed("export manifest: after"),
    killed("staged/streams old versions: before"),
    killed("quarantine/records old versions: after"),
    killed("result.json: after"),
]
