# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---
# ruff: noqa: D100, S608

# %% [markdown]
# # A look into the lake
#
# What the data looks like, what is odd in it, and how KPIs come about: in SQL over the Delta tables, without Spark.
#
# This is a notebook as text: Jupyter with jupytext, VS Code and PyCharm open it as one, and as a program it runs from
# top to bottom. First `./build.sh run`, then `PYTHONPATH=. .build/venv/bin/python docs/exploration.py`; the variable
# `LAKE` names another lake. It expects a `kpi_time_zone` of whole hours, such as UTC.

# %%
import os

import matplotlib.pyplot as plt

from lake_reader.duckdb_views import connect

lake = connect(os.environ.get("LAKE", ".build/lake"))


def show(query: str) -> None:
    """Print the first rows of a query."""
    lake.sql(query).show(max_rows=20, max_width=160)


# %% [markdown]
# ## Shape

# %%
show(
    """
    SELECT listen_date, count(*) AS listens, count(DISTINCT user_id) AS users, count(DISTINCT track_id) AS tracks,
           min(listen_time) AS first, max(listen_time) AS last
    FROM staged_streams GROUP BY listen_date ORDER BY listen_date
    """
)
show(
    "SELECT count(*) AS n, count(DISTINCT track_id) AS tracks, count(DISTINCT track_genre) AS genres FROM staged_songs"
)
show("SELECT user_country, age_band, count(*) AS users FROM staged_users GROUP BY ALL ORDER BY users DESC LIMIT 10")

# %% [markdown]
# ## Anomalies
#
# Rows that were set aside, by reason; listens that wait for their song; listens of users that nobody knows; rows of a
# file that say the same; and songs of several genres, whose listens count in each of them.

# %%
if "quarantine" in {row[0] for row in lake.sql("SELECT DISTINCT schema_name FROM duckdb_views()").fetchall()}:
    show(
        """
        SELECT dataset, reason, count(*) AS n, min(raw) AS example
        FROM quarantine.records, unnest(reasons) AS each(reason) GROUP BY ALL ORDER BY n DESC, reason
        """
    )
show(
    """
    SELECT
        count(*) FILTER (track_id NOT IN (SELECT track_id FROM staged_songs)) AS waiting_for_their_song,
        count(*) FILTER (user_id NOT IN (SELECT user_id FROM staged_users)) AS of_unknown_users,
        sum(copies) - count(*) AS duplicates
    FROM staged_streams
    """
)
show(
    """
    SELECT genres, count(*) AS tracks
    FROM (SELECT track_id, count(DISTINCT track_genre) AS genres FROM staged_songs GROUP BY track_id)
    GROUP BY genres ORDER BY genres
    """
)

# %% [markdown]
# ## What KPIs are made of
#
# - `songs`: of each track, the rows of the newest file that names it.
# - `listens`: each once, though several files may hold it, of tracks with a song.
# - `plays`: a listen in each genre of its track.

# %%
lake.execute(
    """
    CREATE TABLE songs AS
    SELECT s.* FROM staged_songs AS s
    SEMI JOIN (
        SELECT track_id, arg_max(file_id, (file_modified_at, file_name)) AS file_id FROM staged_songs GROUP BY track_id
    ) AS newest USING (track_id, file_id);

    CREATE TABLE listens AS
    SELECT DISTINCT listen_date, date_trunc('hour', listen_time) AS listen_hour, user_id, track_id, listen_time
    FROM staged_streams SEMI JOIN songs USING (track_id);

    CREATE TABLE plays AS
    SELECT listens.*, track_genre, track_name, popularity, duration_ms FROM listens JOIN songs USING (track_id);
    """
)

# %% [markdown]
# ## KPIs, from those
#
# Each query gives exactly these columns of the KPI table of its name; the next cell fails if not.

# %%
KPIS = {
    "daily_genre": """
        SELECT listen_date, track_genre, count(*) AS listen_count, count(DISTINCT user_id) AS unique_listeners,
               sum(duration_ms) AS total_listening_time_ms
        FROM plays GROUP BY ALL
    """,
    "top_genres": """
        SELECT listen_date, rank, track_genre, listen_count
        FROM (
            SELECT listen_date, track_genre, count(*) AS listen_count,
                   row_number() OVER (PARTITION BY listen_date ORDER BY count(*) DESC, track_genre) AS rank
            FROM plays GROUP BY listen_date, track_genre
        )
        WHERE rank <= 5
    """,
    "top_songs": """
        SELECT listen_date, track_genre, rank, track_id, play_count
        FROM (
            SELECT listen_date, track_genre, track_id, count(*) AS play_count,
                   row_number() OVER (
                       PARTITION BY listen_date, track_genre ORDER BY count(*) DESC, max(popularity) DESC, track_id
                   ) AS rank
            FROM plays GROUP BY listen_date, track_genre, track_id
        )
        WHERE rank <= 3
    """,
    "hourly": """
        SELECT listen_date, listen_hour, count(*) AS listen_count, count(DISTINCT user_id) AS unique_listeners,
               count(DISTINCT track_id) AS unique_tracks
        FROM listens GROUP BY ALL
    """,
}

# %%
for table, query in KPIS.items():
    columns = ", ".join(lake.sql(query).columns)
    (differing,) = lake.sql(
        f"""
        SELECT count(*) FROM (
            (({query}) EXCEPT ALL SELECT {columns} FROM kpis.{table})
            UNION ALL (SELECT {columns} FROM kpis.{table} EXCEPT ALL ({query}))
        )
        """
    ).fetchall()[0]
    (rows,) = lake.sql(f"SELECT count(*) FROM kpis.{table}").fetchall()[0]
    print(f"kpis/{table}: {rows} rows, {differing} differ")
    if differing:
        raise AssertionError(f"kpis/{table} is not what its query gives; was the lake made in another time zone?")

# %% [markdown]
# ## Plots

# %%
hours = lake.sql("SELECT listen_hour, listen_count, unique_listeners FROM hourly ORDER BY listen_hour").fetchall()
figure, (left, right) = plt.subplots(1, 2, figsize=(14, 4))
left.plot([row[0] for row in hours], [row[1] for row in hours], label="listens")
left.plot([row[0] for row in hours], [row[2] for row in hours], label="listeners")
left.set_title("By hour")
left.tick_params(axis="x", rotation=45)
left.legend()
genres = lake.sql(
    "SELECT track_genre, sum(listen_count) AS n FROM daily_genre GROUP BY ALL ORDER BY n DESC, track_genre LIMIT 15"
).fetchall()
right.barh([row[0] for row in reversed(genres)], [row[1] for row in reversed(genres)])
right.set_title("Listens by genre, all days")
figure.tight_layout()
plt.show()
