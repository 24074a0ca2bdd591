"""The independent engine against figures worked out by hand, and against known ones."""

import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.oracle import Oracle, zones

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data" / "raw"
MODIFIED = datetime(2024, 7, 1, tzinfo=UTC).timestamp()

SONGS = """\
id,track_id,artists,track_name,popularity,duration_ms,track_genre
1,A,Ann;Bob; ;Ann,"Alpha, One",50,1000,pop
2,A,Ann,Alpha,49,1001,rock
3,B,"Bob ""B"" Berg",Beta,50,2000,pop
9,C,Cy,Gamma 9,,3001,pop
8,C,Cy,Gamma 8,0,3000,pop
x,D,Di,Delta,1,4000,pop
""" + "".join(f"{100 + n},T{n},Tom,Tune {n},1,1,filler\n" for n in range(20))
STREAMS = """\
user_id,track_id,listen_time
1,B,2024-06-25 10:00:00
1,A,2024-06-25T10:59:59.999999
+2,A,2024-06-25 11:00:00
2,A,2024-06-25 11:00:00.0

2,B,2024-06-25 23:59:59
3,C,2024-06-26 00:00:00
"""


def _write(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    os.utime(path, (MODIFIED, MODIFIED))


def test_it_counts_a_listen_in_each_genre_and_once_an_hour(tmp_path: Path) -> None:
    _write(tmp_path, "songs/songs.csv", SONGS)
    _write(tmp_path, "users/users.csv", "user_id\n1\n2\n")
    _write(tmp_path, "streams/a.csv", STREAMS)
    outcome = Oracle().run(tmp_path)

    songs, streams = outcome.files["songs/songs.csv"], outcome.files["streams/a.csv"]
    assert (songs.rows, songs.valid, songs.duplicates, songs.quarantined) == (26, 24, 1, 1)
    assert [(row.line_number, set(row.reasons)) for row in songs.bad_rows] == [(7, {"invalid_id"})]
    assert (streams.rows, streams.valid, streams.duplicates, streams.unknown_users) == (6, 5, 1, 1)

    day, next_day = date(2024, 6, 25), date(2024, 6, 26)
    assert outcome.tables["kpis/daily_genre"] == [
        # A and B twice each, equally popular: A by its id. 6,000 ms by 2 listeners, (1,000 + 2,000) / 2 ms a track.
        (day, "pop", 4, 2, 6000, Decimal("3.000"), Decimal("1500.000"), Decimal("2.00"), "A", "Alpha, One"),
        (day, "rock", 2, 2, 2002, Decimal("1.001"), Decimal("1001.000"), Decimal("0.98"), "A", "Alpha"),
        (next_day, "pop", 1, 1, 3000, Decimal("3.000"), Decimal("3000.000"), Decimal("0.00"), "C", "Gamma 8"),
    ]
    assert outcome.tables["kpis/top_genres"] == [(day, 1, "pop", 4), (day, 2, "rock", 2), (next_day, 1, "pop", 1)]
    hours = [datetime(2024, 6, 25, hour, tzinfo=UTC) for hour in (10, 11, 23)]
    assert outcome.tables["kpis/hourly"] == [
        (day, hours[0], 2, 1, 2, Decimal("1.000000")),
        (day, hours[1], 1, 1, 1, Decimal("1.000000")),
        (day, hours[2], 1, 1, 1, Decimal("1.000000")),
        (next_day, datetime(2024, 6, 26, tzinfo=UTC), 1, 1, 1, Decimal("1.000000")),
    ]
    # Two listens of A (1,000 ms) and two of B (2,000 ms) by users whose file has no countries; C by nobody known.
    assert outcome.tables["kpis/daily_country"] == [(day, "unknown", 4, 2, 6000), (next_day, "unknown", 1, 1, 3000)]
    assert outcome.tables["kpis/hourly_top_albums"] == []
    assert outcome.tables["kpis/hourly_top_artists"][:3] == [
        (day, hours[0], 1, "Ann", 1),
        (day, hours[0], 2, "Bob", 1),
        (day, hours[0], 3, 'Bob "B" Berg', 1),
    ]


def test_countries_and_albums_are_those_of_the_newest_files(tmp_path: Path) -> None:
    songs = "track_id,artists,album_name,track_name,popularity,duration_ms,track_genre\n"
    _write(tmp_path, "songs/songs.csv", f"{songs}A,Ann,First,a,1,10,pop\nA,Ann,Second,a,2,20,rock\nB,Bob,,b,1,5,pop\n")
    _write(tmp_path, "users/a.csv", "user_id,user_country,created_at\n1,Peru,2020\n2,,2020\n3,Chile,2020\n")
    _write(tmp_path, "users/b.csv", "user_id,user_country,created_at\n1,Chile,2021\n3,Peru,2021\n")
    listens = "".join(f"{user},{track},2024-06-25 10:00:00\n" for user, track in ((1, "A"), (2, "A"), (3, "B")))
    _write(tmp_path, "streams/a.csv", f"user_id,track_id,listen_time\n{listens}")
    tables = Oracle().run(tmp_path).tables
    day, hour = date(2024, 6, 25), datetime(2024, 6, 25, 10, tzinfo=UTC)
    assert tables["kpis/daily_country"] == [(day, "Chile", 2, 2, 25), (day, "unknown", 1, 1, 20)]
    assert tables["kpis/hourly_top_albums"] == [(day, hour, 1, "Second", 2)]


def test_a_listen_waits_until_its_song_arrives(tmp_path: Path) -> None:
    _write(tmp_path, "songs/songs.csv", SONGS)
    _write(tmp_path, "users/users.csv", "user_id\n1\n")
    listens = "".join(f"{user},{'LATE' if user == 3 else 'A'},2024-06-25 10:00:0{user}\n" for user in range(5))
    _write(tmp_path, "streams/a.csv", f"user_id,track_id,listen_time\n{listens}")
    oracle = Oracle()
    assert oracle.run(tmp_path).files["streams/a.csv"].waiting == 1
    header = SONGS.splitlines()[0]
    _write(tmp_path, "songs/more.csv", f"{header}\n200,LATE,Lou,Late,1,1000,pop\n")
    later = oracle.run(tmp_path)
    assert list(later.files) == ["songs/more.csv"]
    assert later.tables["kpis/hourly"][0][2] == 5


@pytest.mark.parametrize(
    ("zone", "instant", "expected"),
    [
        ("Asia/Kolkata", "2024-06-25T10:29:59", "2024-06-25T09:30:00"),
        ("Europe/Berlin", "2024-10-27T00:15:00", "2024-10-27T00:00:00"),  # 02:15 summer time
        ("Europe/Berlin", "2024-10-27T01:15:00", "2024-10-27T01:00:00"),  # 02:15 again
        ("Australia/Lord_Howe", "2024-04-06T14:59:59", "2024-04-06T14:00:00"),  # 01:59:59 summer time
        ("Australia/Lord_Howe", "2024-04-06T15:10:00", "2024-04-06T15:00:00"),  # 01:40, turned back at 02:00
        ("Australia/Lord_Howe", "2024-04-06T15:30:00", "2024-04-06T15:30:00"),  # 02:00
        ("Australia/Lord_Howe", "2024-10-05T15:40:00", "2024-10-05T15:30:00"),  # 02:40, the gap ended at 02:30
    ],
)
def test_an_hour_begins_where_its_zone_says(zone: str, instant: str, expected: str) -> None:
    begun = zones.hour_start(zones.micros(datetime.fromisoformat(instant)), ZoneInfo(zone))
    assert begun == zones.micros(datetime.fromisoformat(expected))


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared data is not beside the repository")
def test_it_agrees_with_the_known_figures_of_the_shared_data() -> None:
    tables = Oracle().run(SHARED_DATA).tables
    assert sum(int(str(row[2])) for row in tables["kpis/hourly"]) == 34_038
    assert sum(int(str(row[2])) for row in tables["kpis/daily_genre"]) == 38_733
    assert len(tables["kpis/daily_genre"]) == 113
    assert len(tables["kpis/hourly"]) == 24
