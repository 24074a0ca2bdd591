"""The same work by Polars in one process: rows checked, bad ones set aside, de-duplicated, staged, all tables.

`python polars_job.py INPUT OUTPUT`, with the packages of locks/bench.txt.
"""

import sys
from pathlib import Path

import polars as pl

DAY, HOUR = "listen_date", "listen_hour"


def read_songs(source: str) -> pl.DataFrame:
    songs = pl.read_csv(f"{source}/songs/*.csv").with_columns(pl.col("popularity").fill_null(0))
    needed = ("track_id", "artists", "track_name", "track_genre")
    good = songs.drop_nulls(needed).filter(
        pl.col("duration_ms").is_between(0, 86_400_000) & pl.col("popularity").is_between(0, 100)
    )
    best = good.sort(["popularity", "id"], descending=[True, False])
    return best.unique(["track_id", "track_genre"], keep="first", maintain_order=True)


def read_listens(source: str, target: Path) -> pl.DataFrame:
    text = pl.scan_csv(f"{source}/streams/*.csv", infer_schema=False, include_file_paths="file")
    trimmed = text.with_columns(pl.col("user_id", "track_id", "listen_time").str.strip_chars(" \t"))
    typed = trimmed.with_columns(
        pl.col("user_id").cast(pl.Int64, strict=False).alias("user"),
        pl.when(pl.col("track_id") != "").then(pl.col("track_id")).alias("track"),
        pl.col("listen_time").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).alias("time"),
    )
    parts = {"user": pl.col("user").is_null(), "track": pl.col("track").is_null(), "time": pl.col("time").is_null()}
    early = (pl.col("time") < pl.datetime(2000, 1, 1)).fill_null(value=False)
    is_bad = pl.any_horizontal(*parts.values(), early)
    reasons = pl.concat_str(
        *(pl.when(missing).then(pl.lit(name)) for name, missing in parts.items()), separator=" ", ignore_nulls=True
    )
    typed.filter(is_bad).with_columns(reasons.alias("reasons")).sink_parquet(target / "quarantine" / "records.parquet")
    good = typed.filter(~is_bad).select(user_id="user", track_id="track", listen_time="time").unique()
    return good.with_columns(pl.col("listen_time").dt.date().alias(DAY)).collect(engine="streaming")


def first_of(frame: pl.DataFrame, keys: list[str], most: int) -> pl.DataFrame:
    """The first rows of each group of a sorted frame, with their rank."""
    rank = pl.int_range(1, pl.len() + 1).over(keys).alias("rank")
    return frame.with_columns(rank).filter(pl.col("rank") <= most)


def main(source: str, target: Path) -> None:
    for name in ("staged/streams", "quarantine", "kpis"):
        (target / name).mkdir(parents=True, exist_ok=True)
    songs = read_songs(source)
    songs.write_parquet(target / "staged" / "songs.parquet")
    users = pl.read_csv(f"{source}/users/*.csv").select("user_id", "user_country")
    users.write_parquet(target / "staged" / "users.parquet")
    by_popularity = songs.sort(["popularity", "track_genre"], descending=[True, False])
    tracks = by_popularity.unique("track_id", keep="first").select("track_id", "artists", "album_name", "duration_ms")
    listens = read_listens(source, target)
    for (day,), rows in listens.partition_by(DAY, as_dict=True).items():
        rows.write_parquet(target / "staged" / "streams" / f"{day}.parquet")
    known = listens.join(tracks.select("track_id"), on="track_id").with_columns(
        pl.col("listen_time").dt.truncate("1h").alias(HOUR)
    )
    plays = known.group_by(DAY, HOUR, "track_id").agg(pl.len().cast(pl.Int64).alias("play_count"))
    genre_plays = plays.group_by(DAY, "track_id").agg(pl.col("play_count").sum()).join(songs, on="track_id")

    keys = [DAY, "track_genre"]
    order = genre_plays.sort(["play_count", "popularity", "track_id"], descending=[True, True, False])
    top_songs = first_of(order, keys, 3).select(*keys, "rank", "track_id", "track_name", "artists", "play_count")
    top_songs.write_parquet(target / "kpis" / "top_songs.parquet")
    of_genres = (
        known.lazy()
        .select(DAY, "user_id", "track_id")
        .join(songs.lazy().select("track_id", "track_genre"), on="track_id")
    )
    listeners = of_genres.group_by(keys).agg(pl.col("user_id").n_unique().alias("unique_listeners"))
    count = pl.col("play_count")
    genres = genre_plays.group_by(keys).agg(
        count.sum().alias("listen_count"),
        (count * pl.col("duration_ms")).sum().alias("total_listening_time_ms"),
        pl.col("duration_ms").mean().alias("avg_track_duration_ms"),
        ((count * pl.col("popularity")).sum() / 100).alias("popularity_index"),
    )
    daily = genres.join(listeners.collect(engine="streaming"), on=keys)
    daily.write_parquet(target / "kpis" / "daily_genre.parquet")
    order = genres.sort(["listen_count", "track_genre"], descending=[True, False])
    first_of(order, [DAY], 5).write_parquet(target / "kpis" / "top_genres.parquet")
    hourly = known.group_by(HOUR).agg(
        pl.len().alias("listen_count"),
        pl.col("user_id").n_unique().alias("unique_listeners"),
        pl.col("track_id").n_unique().alias("unique_tracks"),
    )
    hourly.write_parquet(target / "kpis" / "hourly.parquet")
    artists = tracks.select("track_id", pl.col("artists").str.split(";").alias("artist")).explode("artist")
    artists = artists.with_columns(pl.col("artist").str.strip_chars()).filter(pl.col("artist") != "").unique()
    albums = tracks.select("track_id", "album_name").drop_nulls()
    for table, names, name in (("hourly_top_artists", artists, "artist"), ("hourly_top_albums", albums, "album_name")):
        by_name = plays.join(names, on="track_id").group_by(HOUR, name).agg(pl.col("play_count").sum())
        order = by_name.sort(["play_count", name], descending=[True, False])
        first_of(order, [HOUR], 5).write_parquet(target / "kpis" / f"{table}.parquet")
    heard = known.lazy().join(tracks.lazy().select("track_id", "duration_ms"), on="track_id")
    countries = heard.join(users.lazy(), on="user_id", how="left").group_by(
        DAY, pl.col("user_country").fill_null("unknown").alias("country")
    )
    figures = countries.agg(
        pl.len().alias("listen_count"),
        pl.col("user_id").n_unique().alias("unique_listeners"),
        pl.col("duration_ms").sum().alias("total_listening_time_ms"),
    )
    figures.collect(engine="streaming").write_parquet(target / "kpis" / "daily_country.parquet")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
