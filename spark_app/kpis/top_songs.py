"""Top three songs of each genre and day."""

from __future__ import annotations

from pyspark.sql import DataFrame

from spark_app.kpis.definition import Kpi, KpiInputs, ranks


def top_songs(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_date, track_genre, rank 1–3). By plays, then popularity, both descending, then track_id."""
    keys = ["listen_date", "track_genre"]
    ranked = ranks(inputs.genre_days.select(*keys, "top_songs"), "top_songs", "song_no")
    names = inputs.songs.select("song_no", "track_id", "track_name", "artists")
    return ranked.join(names, on="song_no", how="inner").select(
        *keys, "rank", "track_id", "track_name", "artists", "play_count"
    )


KPI = Kpi("top_songs", ("listen_date", "track_genre", "rank"), top_songs, rank="rank")
