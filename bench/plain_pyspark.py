"""The job as it is usually written: inferred schema, dropDuplicates, one groupBy after another, Parquet.

`spark-submit plain_pyspark.py INPUT OUTPUT`. Bad rows are dropped, not kept; nothing is audited; no table can be
changed later.
"""

import sys

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F


def read(spark: SparkSession, path: str) -> DataFrame:
    return spark.read.csv(path, header=True, inferSchema=True, escape='"')


def ranked(frame: DataFrame, keys: list[str], order: list[object], most: int) -> DataFrame:
    window = Window.partitionBy(*keys).orderBy(*order)  # type: ignore[arg-type]
    return frame.withColumn("rank", F.row_number().over(window)).where(F.col("rank") <= most)


def main(source: str, target: str) -> None:
    spark = SparkSession.builder.appName("plain PySpark").getOrCreate()
    streams, songs, users = (read(spark, f"{source}/{name}") for name in ("streams", "songs", "users"))
    best = Window.partitionBy("track_id", "track_genre").orderBy(F.desc("popularity"), "id")
    songs = songs.withColumn("place", F.row_number().over(best)).where("place = 1")
    listens = (
        streams.withColumn("listen_time", F.to_timestamp("listen_time"))
        .dropna(subset=["user_id", "track_id", "listen_time"])
        .dropDuplicates(["user_id", "track_id", "listen_time"])
        .withColumn("listen_date", F.to_date("listen_time"))
    )
    listens.write.partitionBy("listen_date").mode("overwrite").parquet(f"{target}/staged")
    listens = spark.read.parquet(f"{target}/staged")
    joined = listens.join(songs, "track_id").join(users.select("user_id"), "user_id", "left")

    genres = joined.groupBy("listen_date", "track_genre").agg(
        F.count("*").alias("listen_count"),
        F.countDistinct("user_id").alias("unique_listeners"),
        F.sum("duration_ms").alias("total_listening_time_ms"),
        F.sum("popularity").alias("popularity"),
    )
    genres = genres.withColumn("avg_listening_time", F.col("total_listening_time_ms") / F.col("unique_listeners"))
    genres.write.mode("overwrite").parquet(f"{target}/daily_genre")
    plays = joined.groupBy("listen_date", "track_genre", "track_id", "track_name").agg(
        F.count("*").alias("play_count"), F.max("popularity").alias("popularity")
    )
    order = [F.desc("play_count"), F.desc("popularity"), F.col("track_id")]
    ranked(plays, ["listen_date", "track_genre"], [*order], 3).write.mode("overwrite").parquet(f"{target}/top_songs")
    counts = joined.groupBy("listen_date", "track_genre").agg(F.count("*").alias("listen_count"))
    top = ranked(counts, ["listen_date"], [F.desc("listen_count"), F.col("track_genre")], 5)
    top.write.mode("overwrite").parquet(f"{target}/top_genres")
    hours = listens.join(songs.select("track_id").distinct(), "track_id")
    hours = hours.groupBy(F.date_trunc("hour", "listen_time").alias("listen_hour")).agg(
        F.count("*").alias("listen_count"),
        F.countDistinct("user_id").alias("unique_listeners"),
        F.countDistinct("track_id").alias("unique_tracks"),
    )
    hours.write.mode("overwrite").parquet(f"{target}/hourly")
    own = Window.partitionBy("track_id").orderBy(F.desc("popularity"), "track_genre")
    tracks = songs.withColumn("place", F.row_number().over(own)).where("place = 1")
    names = tracks.select("track_id", F.explode(F.split("artists", ";")).alias("artist"))
    names = names.select("track_id", F.trim("artist").alias("artist")).where("artist <> ''").distinct()
    albums = tracks.select("track_id", "album_name").dropna()
    for table, of_tracks, name in (
        ("hourly_top_artists", names, "artist"),
        ("hourly_top_albums", albums, "album_name"),
    ):
        groups = listens.join(of_tracks, "track_id").groupBy(
            F.date_trunc("hour", "listen_time").alias("listen_hour"), name
        )
        most = ranked(groups.agg(F.count("*").alias("play_count")), ["listen_hour"], [F.desc("play_count"), name], 5)
        most.write.mode("overwrite").parquet(f"{target}/{table}")
    heard = listens.join(tracks.select("track_id", "duration_ms"), "track_id").join(users, "user_id", "left")
    countries = heard.groupBy("listen_date", F.coalesce("user_country", F.lit("unknown")).alias("country")).agg(
        F.count("*").alias("listen_count"),
        F.countDistinct("user_id").alias("unique_listeners"),
        F.sum("duration_ms").alias("total_listening_time_ms"),
    )
    countries.write.mode("overwrite").parquet(f"{target}/daily_country")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:3])
