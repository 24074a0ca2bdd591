"""The same work by DuckDB in one process: rows checked, bad ones set aside, de-duplicated, staged, all tables.

`python -m bench.duckdb_job INPUT OUTPUT [MEMORY [kpis]]`; with `kpis`, nothing but the KPI tables is written.
"""

import sys
from pathlib import Path

import duckdb


def main(source: str, target: str, memory: str = "4GB", only: str = "") -> None:
    folders = ("staged", "quarantine", "kpis")
    left_out = [f"$target/{name}/" for name in folders if only not in ("", name)]
    statements = [text for text in _SQL.split(";\n") if not any(folder in text for folder in left_out)]
    for name in folders:
        (Path(target) / name).mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"memory_limit": memory, "temp_directory": f"{target}/spill"}) as engine:
        engine.execute(";\n".join(statements).replace("$source", source).replace("$target", target))


_SQL = """
SET TimeZone = 'UTC';
SET preserve_insertion_order = false;
CREATE TABLE songs AS
    SELECT * EXCLUDE (place) FROM (
        SELECT track_id, id::BIGINT AS id, track_genre, track_name, artists, album_name,
            coalesce(popularity, 0) AS popularity, duration_ms, row_number() OVER (PARTITION BY track_id, track_genre
                ORDER BY coalesce(popularity, 0) DESC, id) AS place
        FROM read_csv('$source/songs/*.csv', header = true)
        WHERE track_id IS NOT NULL AND artists IS NOT NULL AND track_name IS NOT NULL AND track_genre IS NOT NULL
            AND duration_ms BETWEEN 0 AND 86400000 AND coalesce(popularity, 0) BETWEEN 0 AND 100)
    WHERE place = 1;
CREATE TABLE tracks AS
    SELECT * EXCLUDE (place) FROM (
        SELECT *, row_number() OVER (PARTITION BY track_id ORDER BY popularity DESC, track_genre) AS place FROM songs)
    WHERE place = 1;
COPY songs TO '$target/staged/songs.parquet';
CREATE TABLE users AS
    SELECT user_id, user_country FROM read_csv('$source/users/*.csv', header = true) WHERE user_id IS NOT NULL;
COPY users TO '$target/staged/users.parquet';
CREATE VIEW checked AS
    SELECT trim(user_id) AS user_text, trim(track_id) AS track_text, trim(listen_time) AS time_text, filename,
        TRY_CAST(user_text AS BIGINT) AS user_id, nullif(track_text, '') AS track_id,
        TRY_CAST(time_text AS TIMESTAMP) AS listen_time
    FROM read_csv('$source/streams/*.csv*', header = true, all_varchar = true, filename = true);
COPY (SELECT filename, user_text, track_text, time_text,
        list_filter([CASE WHEN user_id IS NULL THEN 'user_id' END, CASE WHEN track_id IS NULL THEN 'track_id' END,
            CASE WHEN listen_time IS NULL THEN 'listen_time' END], lambda x: x IS NOT NULL) AS reasons
    FROM checked WHERE user_id IS NULL OR track_id IS NULL OR listen_time IS NULL OR listen_time < '2000-01-01')
    TO '$target/quarantine/records.parquet';
CREATE TABLE listens AS
    SELECT DISTINCT user_id, track_id, listen_time FROM checked
    WHERE user_id IS NOT NULL AND track_id IS NOT NULL AND listen_time >= '2000-01-01';
COPY (SELECT *, listen_time::DATE AS listen_date FROM listens)
    TO '$target/staged/streams' (FORMAT parquet, PARTITION_BY (listen_date), OVERWRITE true);
CREATE TABLE known AS
    SELECT listen_time::DATE AS listen_date, date_trunc('hour', listen_time) AS listen_hour, user_id, track_id
    FROM listens SEMI JOIN tracks USING (track_id);
CREATE TABLE plays AS
    SELECT listen_date, listen_hour, track_id, count(*) AS play_count FROM known GROUP BY ALL;
CREATE TABLE genre_plays AS
    SELECT listen_date, track_id, sum(play_count)::BIGINT AS play_count, s.* EXCLUDE (track_id)
    FROM plays JOIN songs AS s USING (track_id) GROUP BY ALL;
CREATE TABLE top_songs AS
    SELECT listen_date, track_genre, row_number() OVER (PARTITION BY listen_date, track_genre
            ORDER BY play_count DESC, popularity DESC, track_id) AS rank, track_id, track_name, artists, play_count
    FROM genre_plays QUALIFY rank <= 3;
COPY top_songs TO '$target/kpis/top_songs.parquet';
COPY (SELECT g.*, l.unique_listeners, g.total_listening_time_ms / 1000.0 / l.unique_listeners AS avg_time,
        t.track_id AS most_popular_track_id
    FROM (SELECT listen_date, track_genre, sum(play_count)::BIGINT AS listen_count,
            sum(play_count * duration_ms)::BIGINT AS total_listening_time_ms, avg(duration_ms) AS avg_track_duration_ms,
            sum(play_count * popularity) / 100 AS popularity_index FROM genre_plays GROUP BY ALL) AS g
    JOIN (SELECT listen_date, track_genre, count(DISTINCT user_id) AS unique_listeners
        FROM known JOIN songs USING (track_id) GROUP BY ALL) AS l USING (listen_date, track_genre)
    JOIN (SELECT * FROM top_songs WHERE rank = 1) AS t USING (listen_date, track_genre))
    TO '$target/kpis/daily_genre.parquet';
COPY (SELECT listen_date, row_number() OVER (PARTITION BY listen_date ORDER BY listen_count DESC, track_genre) AS rank,
        track_genre, listen_count
    FROM (SELECT listen_date, track_genre, sum(play_count)::BIGINT AS listen_count FROM genre_plays GROUP BY ALL)
    QUALIFY rank <= 5) TO '$target/kpis/top_genres.parquet';
COPY (SELECT listen_hour, count(*) AS listen_count, count(DISTINCT user_id) AS unique_listeners,
        count(DISTINCT track_id) AS unique_tracks, unique_tracks / listen_count AS track_diversity_index
    FROM known GROUP BY ALL) TO '$target/kpis/hourly.parquet';
COPY (SELECT listen_hour, row_number() OVER (PARTITION BY listen_hour ORDER BY play_count DESC, artist) AS rank, artist,
        play_count
    FROM (SELECT listen_hour, artist, sum(play_count)::BIGINT AS play_count
        FROM plays JOIN (SELECT DISTINCT track_id, trim(unnest(string_split(artists, ';'))) AS artist FROM tracks)
            USING (track_id) WHERE artist <> '' GROUP BY ALL)
    QUALIFY rank <= 5) TO '$target/kpis/hourly_top_artists.parquet';
COPY (SELECT listen_hour, row_number() OVER (PARTITION BY listen_hour ORDER BY play_count DESC, album_name) AS rank,
        album_name, play_count
    FROM (SELECT listen_hour, album_name, sum(play_count)::BIGINT AS play_count
        FROM plays JOIN tracks USING (track_id) WHERE album_name IS NOT NULL GROUP BY ALL)
    QUALIFY rank <= 5) TO '$target/kpis/hourly_top_albums.parquet';
COPY (SELECT listen_date, coalesce(user_country, 'unknown') AS country, count(*) AS listen_count,
        count(DISTINCT user_id) AS unique_listeners, sum(duration_ms)::BIGINT AS total_listening_time_ms
    FROM known JOIN tracks USING (track_id) LEFT JOIN users USING (user_id) GROUP BY ALL)
    TO '$target/kpis/daily_country.parquet'
"""


if __name__ == "__main__":
    main(*sys.argv[1:])
