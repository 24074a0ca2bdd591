"""The same work by pandas in one process: rows checked, bad ones set aside, de-duplicated, staged, all tables.

`python pandas_job.py INPUT OUTPUT`, with the packages of locks/bench.txt.
"""

import sys
from pathlib import Path

import pandas as pd

DAY, HOUR = "listen_date", "listen_hour"


def read_songs(source: Path) -> pd.DataFrame:
    songs = pd.concat(pd.read_csv(path) for path in sorted(source.glob("songs/*.csv")))
    songs["popularity"] = songs["popularity"].fillna(0).astype("int64")
    good = songs.dropna(subset=["track_id", "artists", "track_name", "track_genre", "duration_ms"])
    good = good[good["duration_ms"].between(0, 86_400_000) & good["popularity"].between(0, 100)]
    best = good.sort_values(["popularity", "id"], ascending=[False, True])
    return best.drop_duplicates(["track_id", "track_genre"])


def read_listens(source: Path, target: Path) -> pd.DataFrame:
    parts = []
    for path in sorted(source.glob("streams/*.csv")):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        user = pd.to_numeric(rows["user_id"].str.strip(), errors="coerce")
        track = rows["track_id"].str.strip()
        time = pd.to_datetime(rows["listen_time"].str.strip(), format="%Y-%m-%d %H:%M:%S", errors="coerce")
        bad = user.isna() | (track == "") | time.isna() | (time < "2000-01-01")
        aside = rows[bad].assign(file=path.name, no_user=user.isna(), no_track=track == "", no_time=time.isna())
        aside.to_parquet(target / "quarantine" / f"{path.stem}.parquet")
        kept = pd.DataFrame({"user_id": user[~bad].astype("int64"), "track_id": track[~bad], "listen_time": time[~bad]})
        parts.append(kept)
    listens = pd.concat(parts, ignore_index=True).drop_duplicates()
    listens[DAY] = listens["listen_time"].dt.normalize()
    return listens


def first_of(frame: pd.DataFrame, keys: list[str], most: int) -> pd.DataFrame:
    """The first rows of each group of a sorted frame, with their rank."""
    ranked = frame.assign(rank=frame.groupby(keys, sort=False).cumcount() + 1)
    return ranked[ranked["rank"] <= most]


def main(source: Path, target: Path) -> None:
    for name in ("staged/streams", "quarantine", "kpis"):
        (target / name).mkdir(parents=True, exist_ok=True)
    songs = read_songs(source)
    songs.to_parquet(target / "staged" / "songs.parquet")
    users = pd.concat(pd.read_csv(path) for path in sorted(source.glob("users/*.csv")))
    users[["user_id"]].to_parquet(target / "staged" / "users.parquet")
    by_popularity = songs.sort_values(["popularity", "track_genre"], ascending=[False, True])
    tracks = by_popularity.drop_duplicates("track_id")[["track_id", "artists", "album_name", "duration_ms"]]
    listens = read_listens(source, target)
    for day, rows in listens.groupby(DAY):
        rows.to_parquet(target / "staged" / "streams" / f"{day:%Y-%m-%d}.parquet")  # type: ignore[str-format]
    known = listens[listens["track_id"].isin(tracks["track_id"])]
    known = known.assign(**{HOUR: known["listen_time"].dt.floor("h")})
    plays = known.groupby([DAY, HOUR, "track_id"], sort=False).size().rename("play_count").reset_index()
    genre_plays = plays.groupby([DAY, "track_id"], sort=False)["play_count"].sum().reset_index()
    genre_plays = genre_plays.merge(songs, on="track_id")

    keys = [DAY, "track_genre"]
    order = genre_plays.sort_values(["play_count", "popularity", "track_id"], ascending=[False, False, True])
    top_songs = first_of(order, keys, 3)[[*keys, "rank", "track_id", "track_name", "artists", "play_count"]]
    top_songs.to_parquet(target / "kpis" / "top_songs.parquet")
    pairs = known[[DAY, "user_id", "track_id"]].drop_duplicates()
    pairs = pairs.merge(songs[["track_id", "track_genre"]], on="track_id")
    listeners = pairs.groupby(keys)["user_id"].nunique().rename("unique_listeners").reset_index()
    genre_plays["time"] = genre_plays["play_count"] * genre_plays["duration_ms"]
    genre_plays["popularity_sum"] = genre_plays["play_count"] * genre_plays["popularity"]
    genres = genre_plays.groupby(keys, as_index=False).agg(
        listen_count=("play_count", "sum"),
        total_listening_time_ms=("time", "sum"),
        avg_track_duration_ms=("duration_ms", "mean"),
        popularity_index=("popularity_sum", "sum"),
    )
    genres.merge(listeners, on=keys).to_parquet(target / "kpis" / "daily_genre.parquet")
    order = genres.sort_values(["listen_count", "track_genre"], ascending=[False, True])
    first_of(order, [DAY], 5).to_parquet(target / "kpis" / "top_genres.parquet")
    hourly = known.groupby(HOUR, as_index=False).agg(
        listen_count=("user_id", "size"), unique_listeners=("user_id", "nunique"), unique_tracks=("track_id", "nunique")
    )
    hourly.to_parquet(target / "kpis" / "hourly.parquet")
    artists = tracks.assign(artist=tracks["artists"].str.split(";")).explode("artist")[["track_id", "artist"]]
    artists["artist"] = artists["artist"].str.strip()
    artists = artists[artists["artist"] != ""].drop_duplicates()
    albums = tracks[["track_id", "album_name"]].dropna()
    for table, names, name in (("hourly_top_artists", artists, "artist"), ("hourly_top_albums", albums, "album_name")):
        by_name = plays.merge(names, on="track_id").groupby([HOUR, name], as_index=False)["play_count"].sum()
        order = by_name.sort_values(["play_count", name], ascending=[False, True])
        first_of(order, [HOUR], 5).to_parquet(target / "kpis" / f"{table}.parquet")
    heard = known[[DAY, "user_id", "track_id"]].merge(tracks[["track_id", "duration_ms"]], on="track_id")
    heard = heard.merge(users[["user_id", "user_country"]], on="user_id", how="left")
    heard["country"] = heard["user_country"].fillna("unknown")
    countries = heard.groupby([DAY, "country"], as_index=False).agg(
        listen_count=("user_id", "size"),
        unique_listeners=("user_id", "nunique"),
        total_listening_time_ms=("duration_ms", "sum"),
    )
    countries.to_parquet(target / "kpis" / "daily_country.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
