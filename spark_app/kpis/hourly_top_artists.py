"""Top five artists of each hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_app.kpis.definition import Kpi, KpiInputs, each_slot, most_in_each_slot, ranked_first, ranks, sum_of_pairs

ARTISTS_PER_HOUR = 5
_PARTS = 16


def hourly_top_artists(inputs: KpiInputs) -> DataFrame:
    """Grain: (listen_hour, rank 1–5). Each artist of a track gets the play; by plays, then name (UTF-8 bytes)."""
    keys = ["listen_date", "slot"]
    of_artists = inputs.plays.join(inputs.track_artists, on="track_no", how="inner")
    artists = of_artists.groupBy("listen_date", "artist_no").agg(
        sum_of_pairs("slot_pairs", inputs.slots).alias("slot_pairs")
    )
    slot_plays = F.posexplode(each_slot("slot_pairs", inputs.slots)).alias("slot", "play_count")
    counts = artists.select("listen_date", "artist_no", slot_plays).where(F.col("play_count") > 0)
    enough = _enough_plays(of_artists, inputs.slots)
    candidates = counts.join(F.broadcast(enough), on=keys, how="inner").where(F.col("play_count") >= F.col("enough"))
    best = ranked_first(F.col("play_count"), F.col("artist_no"), ARTISTS_PER_HOUR)
    ranked = ranks(candidates.groupBy(*keys).agg(best.alias("best")), "best", "artist_no")
    named = ranked.join(inputs.artists, on="artist_no", how="inner")
    return named.join(inputs.hour_listeners, on=keys, how="inner").select(
        "listen_date", "listen_hour", "rank", "artist", "play_count"
    )


def _enough_plays(of_artists: DataFrame, slots: int) -> DataFrame:
    """Grain: (listen_date, slot), with `enough`: who has fewer plays than that is surely not among the first five.

    The artists are cut into parts, and of each part the track is taken that has the most plays. The best five of these
    are by five artists, who have at least so many plays as the fifth of them.
    """
    parts = of_artists.groupBy("listen_date", F.pmod("artist_no", F.lit(_PARTS))).agg(
        most_in_each_slot("slot_pairs", slots).alias("most")
    )
    most = parts.select("listen_date", F.posexplode("most").alias("slot", "most"))
    highest_first = F.sort_array(F.collect_list("most"), asc=False)
    fifth = F.coalesce(F.get(highest_first, F.lit(ARTISTS_PER_HOUR - 1)), F.lit(0))
    return most.groupBy("listen_date", "slot").agg(F.greatest(fifth, F.lit(1)).alias("enough"))


KPI = Kpi("hourly_top_artists", ("listen_hour", "rank"), hourly_top_artists, rank="rank")
