from collections import Counter
from datetime import datetime

import pytest
from chispa import assert_column_equality
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from kpi_common.contracts import Dataset, Severity, load_contract
from spark_app.ingest.csv_records import split_fields
from spark_app.ingest.validation import check, warning_notes
from spark_app.spark.columns import age_band, instant_to_local, local_to_instant, names_list
from tests.unit.spark_app.builders import HEADERS, checked, instant, records, settings

S, G, U = Dataset.STREAMS, Dataset.SONGS, Dataset.USERS

# What a row breaks: (dataset, raw text, all its reasons). File time is 2024-06-26T00:00Z, its tolerance a day.
ROWS: list[tuple[Dataset, str, list[str]]] = [
    (S, "1,t1,2024-06-25 10:00:00", []),
    (S, "1,t1,2024-06-25T10:00:00", []),
    (S, "1,t1,2024-06-25 10:00:00.123456", []),
    (S, " 1\t, t1 , 2024-06-25 10:00:00 \r", []),
    (S, '"1","t,1","2024-06-25 10:00:00"', []),
    (S, "+1,t1,2024-06-25 10:00:00", []),
    (S, "-9223372036854775808,t1,2024-06-25 10:00:00", []),
    (S, "1,t1,2000-01-01 00:00:00", []),
    (S, "1,t1,2024-06-27 00:00:00", []),
    (S, "1,t1,2024-02-29 00:00:00", []),
    (S, ",t1,2024-06-25 10:00:00", ["missing_user_id"]),
    (S, '"",t1,2024-06-25 10:00:00', ["missing_user_id"]),
    (S, "1, ,2024-06-25 10:00:00", ["missing_track_id"]),
    (S, "1,t1,", ["missing_listen_time"]),
    (S, ",,", ["missing_user_id", "missing_track_id", "missing_listen_time"]),
    (S, "x,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "1.0,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "1e3,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "9223372036854775808,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "00000000000000000001,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "1\u00a0,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "\u0661,t1,2024-06-25 10:00:00", ["invalid_user_id"]),
    (S, "1,t1,2024-02-30 10:00:00", ["invalid_listen_time"]),
    (S, "1,t1,2023-02-29 10:00:00", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 10:00", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 24:00:00", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 10:00:60", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 10:00:00Z", []),
    (S, "1,t1,2024-06-25T10:00:00.5+0200", []),
    (S, "1,t1,2024-06-27 01:00:00+02:00", []),
    (S, "1,t1,2024-06-26 23:00:00-02:00", ["in_future"]),
    (S, "1,t1,2024-06-25 10:00:00+19:00", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 10:00:00 CET", ["invalid_listen_time"]),
    (S, "1,t1,2024-06-25 10:00:00.1234567", ["invalid_listen_time"]),
    (S, "1,t1,0000-06-25 10:00:00", ["invalid_listen_time"]),
    (S, "1,t1,25.06.2024 10:00:00", ["invalid_listen_time"]),
    (S, "1,t1,1719309600", ["invalid_listen_time"]),
    (S, "1,t1,1999-12-31 23:59:59.999999", ["listen_time_out_of_range"]),
    (S, "1,t1,0001-01-01 00:00:00", ["listen_time_out_of_range"]),
    (S, "1,t1,2024-06-27 00:00:00.000001", ["in_future"]),
    (S, "1,t1,9999-12-31 23:59:59", ["in_future"]),
    (S, "x,,2024-06-28 00:00:00", ["invalid_user_id", "missing_track_id", "in_future"]),
    (S, '1,"t1,2024-06-25 10:00:00', ["unclosed_quote"]),
    (S, 'x,"t1,2099-06-25 10:00:00', ["unclosed_quote"]),
    (S, '1,"t1"x"y",2024-06-25 10:00:00', ["broken_quotes"]),
    (S, 'x,"t1" y,2099-06-25 10:00:00', ["broken_quotes"]),
    (S, "1," + "ä" * 2048 + ",2024-06-25 10:00:00", []),
    (S, "1," + "ä" * 2048 + "x,2024-06-25 10:00:00", ["too_long_track_id"]),
    (S, r"\N,\N,2024-06-25 10:00:00", ["missing_user_id", "missing_track_id"]),
    (G, "0,t1,A,Song,50,180000," + "x" * 1000, []),
    (G, "0,t1,A,Song,50,180000," + "x" * 1001, ["too_long_track_genre"]),
    (G, "0,t1," + "A" * 4097 + ",Song,50,180000,pop", ["too_long_artists"]),
    (G, "0,t1,A," + "A" * 4097 + ",50,180000,pop", ["too_long_track_name"]),
    (G, "0," + "A" * 4097 + ",A,Song,50,180000,pop", ["too_long_track_id"]),
    (G, '0,t1,"A"x"B",Song,50,180000,pop', ["broken_quotes"]),
    (G, r"0,t1,A,Song,50,180000,\N", ["missing_track_genre"]),
    (G, "0,t1,NULL,nan,50,180000,None", []),
    (U, '1,"Ann"x"y",30,NL,', ["broken_quotes"]),
    (U, "1," + "A" * 4097 + ",30,NL,", ["too_long_user_name"]),
    (U, "1,Ann,30," + "A" * 4097 + ",", ["too_long_user_country"]),
    (U, "1,Ann,30,NL," + "A" * 4097, ["too_long_created_at"]),
    (S, "1,t1", ["wrong_column_count"]),
    (S, "x,,1990-01-01 00:00:00,", ["wrong_column_count"]),
    (S, '1,"t1",2024-06-25 10:00:00,', ["wrong_column_count"]),
    (G, "0,t1,A;B,Song,50,180000,pop", []),
    (G, ",t1,A,Song,,0,pop", []),
    (G, "-1,t1,A,Song,100,86400000,pop", []),
    (G, '0,t1,"A, B;C","Say ""hi""\nagain",0,1,pop', []),
    (G, "x,t1,A,Song,50,180000,pop", ["invalid_id"]),
    (G, "0,,A,Song,50,180000,pop", ["missing_track_id"]),
    (G, "0,t1,,Song,50,180000,pop", ["missing_artists"]),
    (G, "0,t1, ; ;;,Song,50,180000,pop", ["missing_artists"]),
    (G, "0,t1,A,,50,180000,pop", ["missing_track_name"]),
    (G, "0,t1,A,Song,fifty,180000,pop", ["invalid_popularity"]),
    (G, "0,t1,A,Song,101,180000,pop", ["popularity_out_of_range"]),
    (G, "0,t1,A,Song,-1,180000,pop", ["popularity_out_of_range"]),
    (G, "0,t1,A,Song,50,,pop", ["missing_duration_ms"]),
    (G, "0,t1,A,Song,50,3:20,pop", ["invalid_duration_ms"]),
    (G, "0,t1,A,Song,50,-1,pop", ["duration_ms_out_of_range"]),
    (G, "0,t1,A,Song,50,86400001,pop", ["duration_ms_out_of_range"]),
    (G, "0,t1,A,Song,50,180000,", ["missing_track_genre"]),
    (G, "0,t1,A,Song,101,-1,", ["missing_track_genre", "popularity_out_of_range", "duration_ms_out_of_range"]),
    (G, "0,t1,A,Song,50,180000", ["wrong_column_count"]),
    (G, '0,t1,"A,Song,50,180000,pop', ["unclosed_quote"]),
    (U, "1,Ann,30,NL,2024-01-01", []),
    (U, "1,,,,", []),
    (U, "1,Ann,thirty,NL,some day", []),
    (U, "1,Ann,131,NL,", []),
    (U, ",Ann,30,NL,", ["missing_user_id"]),
    (U, "u1,Ann,30,NL,", ["invalid_user_id"]),
    (U, "1,Ann,30,NL", ["wrong_column_count"]),
    (U, '1,"Ann,30,NL,', ["unclosed_quote"]),
]


@pytest.fixture(scope="module")
def reasons(spark: SparkSession) -> dict[tuple[Dataset, str], list[str]]:
    """The quarantine reasons of all rows of the table, one job a dataset."""
    found = {}
    for dataset in Dataset:
        raw = [text for of, text, _ in ROWS if of is dataset]
        frame = checked(spark, dataset, *raw)
        for row in frame.frame.select("raw", frame.reasons_column().alias("reasons")).collect():
            found[dataset, row["raw"]] = row["reasons"]
    return found


@pytest.mark.parametrize(("dataset", "raw", "expected"), ROWS)
def test_a_row_has_all_its_reasons(
    reasons: dict[tuple[Dataset, str], list[str]], dataset: Dataset, raw: str, expected: list[str]
) -> None:
    assert reasons[dataset, raw] == expected


@pytest.mark.parametrize("dataset", list(Dataset))
def test_the_table_has_a_row_for_each_quarantine_reason(spark: SparkSession, dataset: Dataset) -> None:
    told = {reason for of, _, found in ROWS if of is dataset for reason in found}
    known = {check.reason for check in checked(spark, dataset, "x").checks if check.severity is Severity.QUARANTINE}
    assert known - told == ({"nonexistent_local_time"} if dataset is S else {"too_long_album_name"} & known)


def test_what_is_kept_and_what_is_set_aside_are_exact_complements(spark: SparkSession) -> None:
    frame = checked(spark, S, *(text for of, text, _ in ROWS if of is S))
    good = {text for of, text, expected in ROWS if of is S and not expected}
    assert {row["raw"] for row in frame.kept.select("raw").collect()} == good
    assert {row["raw"] for row in frame.frame.where(frame.quarantined).select("raw").collect()} == {
        text for of, text, _ in ROWS if of is S
    } - good


def test_kept_rows_are_typed_and_trimmed(spark: SparkSession) -> None:
    frame = checked(spark, S, " 007\t, t 1 , 2024-06-25T10:00:00.5 \r")
    row = frame.kept.select("user_id", "track_id", "listen_time").first()
    assert row is not None
    assert tuple(row) == (7, "t 1", datetime(2024, 6, 25, 10, 0, 0, 500000))


def test_a_warning_is_told_but_keeps_the_row(spark: SparkSession) -> None:
    frame = checked(spark, U, "1,Ann,131,NL,", "2,Bob,old,NL,")
    rows = frame.kept.orderBy("user_id").collect()
    assert [frame.reasons(row["broken_rules"]) for row in rows] == [["user_age_out_of_range"], ["invalid_user_age"]]
    assert [row["user_age"] for row in rows] == [131, None]


def warnings(spark: SparkSession, *raw: str) -> list[list[str]]:
    frame = checked(spark, G, *raw)
    return [frame.reasons(row["broken_rules"]) for row in frame.frame.orderBy("line_number").collect()]


def test_texts_that_mean_nothing_and_html_entities_are_told(spark: SparkSession) -> None:
    found = warnings(
        spark,
        "0,t1,NULL,Song,50,1,pop",
        "0,t1,A,nan,50,1,pop",
        "0,t1,A,Song,50,1,None",
        "0,t1,Simon &amp; Garfunkel,Song,50,1,pop",
        "0,t1,A,It&#39;s,50,1,pop",
        "0,t1,Simon & Garfunkel,R&B; Nullable,50,1,nonet",
        "0,t1,Nan,&#x27;,50,1,pop",
    )
    null, entity = "suspicious_null", "html_entity"
    assert found == [[null], [null], [null], [entity], [entity], [], [null, entity]]
    notes = warning_notes(Counter({null: 4, entity: 2, "invalid_user_age": 1}))
    assert [note.partition(" rows")[0] for note in notes] == ["4", "2"]
    assert "null_values" in notes[0]
    assert warning_notes(Counter()) == []


def test_names_are_composed_where_a_file_may_have_others(spark: SparkSession) -> None:
    raw = "0,e\u0301,Beyonce\u0301;\u1112\u1161\u11ab,Caf\u00e9,50,1,cafe\u0301"
    columns = ("track_id", "artists", "track_name", "track_genre")
    row = checked(spark, G, raw, decomposed=True).kept.select(*columns).first()
    assert row is not None
    assert tuple(row) == ("e\u0301", "Beyonc\u00e9;\ud55c", "Caf\u00e9", "caf\u00e9")
    plan = checked(spark, G, raw).kept.select(*columns)._jdf.queryExecution().executedPlan().toString()
    assert "Python" not in plan, "names of files that need nothing go through no Python"


def test_null_texts_are_counted_by_column(spark: SparkSession) -> None:
    names = load_contract(S).names
    rows = checked(spark, S, "1,t1,x", ",t1,", ",,").frame.orderBy("line_number").collect()
    told = [[name for bit, name in enumerate(names) if row["nulls"] >> bit & 1] for row in rows]
    assert told == [[], ["user_id", "listen_time"], ["user_id", "track_id", "listen_time"]]


def test_the_tolerance_for_the_future_is_a_setting(spark: SparkSession) -> None:
    own = settings("in_future_tolerance_hours=0.5")
    frame = checked(spark, S, "1,t1,2024-06-26 00:30:00", "2,t1,2024-06-26 00:30:00.000001", own=own)
    assert [row["user_id"] for row in frame.kept.collect()] == [1]


@pytest.mark.parametrize(
    ("raw", "header", "expected"),
    [
        ("user_id,track_id,listen_time", ("user_id", "track_id", "listen_time"), True),
        (" user_id,track_id , listen_time\r", ("user_id", "track_id", "listen_time"), True),
        ("\ufeffuser_id,track_id,listen_time", ("user_id", "track_id", "listen_time"), True),
        ('"user_id","track_id","listen_time"', ("user_id", "track_id", "listen_time"), True),
        ('\ufeff"user_id","track_id","listen_time"', ("user_id", "track_id", "listen_time"), True),
        ('\ufeff"user_id",track_id,"listen_time"\r', ("user_id", "track_id", "listen_time"), True),
        ('user_id,track_id,"listen_time\r\r"', ("user_id", "track_id", "listen_time"), True),
        ("user_id\u00a0,track_id,listen_time", ("user_id", "track_id", "listen_time"), False),
        ('listen_time,"a, b",track_id,user_id', ("listen_time", "a, b", "track_id", "user_id"), True),
        ("user_id,track_id,Listen_time", ("user_id", "track_id", "listen_time"), False),
        ("track_id,user_id,listen_time", ("user_id", "track_id", "listen_time"), False),
        ("1,track_id,listen_time", ("user_id", "track_id", "listen_time"), False),
        (",,", ("user_id", "track_id", "listen_time"), False),
    ],
)
def test_a_header_line_is_known(spark: SparkSession, raw: str, header: tuple[str, ...], expected: bool) -> None:
    row = checked(spark, S, raw, header=header).frame.first()
    assert row is not None
    assert row["is_header"] is expected


BERLIN = "Europe/Berlin"


def test_in_a_zone_times_are_instants_and_the_skipped_hour_is_told(spark: SparkSession) -> None:
    times = {
        "2024-03-31 01:59:59": "2024-03-31 00:59:59",
        "2024-03-31 02:00:00": None,
        "2024-03-31 02:59:59.999999": None,
        "2024-03-31 03:00:00": "2024-03-31 01:00:00",
        "2024-03-31T03:00:00.5": "2024-03-31 01:00:00.500000",
        "2023-10-29 02:30:00": "2023-10-29 00:30:00",
        "2023-10-29 03:00:00": "2023-10-29 02:00:00",
        "2024-03-31 02:30:00Z": "2024-03-31 02:30:00",
        "2024-03-31T02:30:00.25+02:00": "2024-03-31 00:30:00.250000",
        "2024-03-30 22:30:00-0230": "2024-03-31 01:00:00",
    }
    raw = [f"1,{number},{time}" for number, time in enumerate(times)]
    frame = checked(spark, S, *raw, own=settings(f"source_time_zone={BERLIN}"))
    rows = frame.frame.select("*", frame.reasons_column().alias("reasons")).orderBy("line_number").collect()
    for row, expected in zip(rows, times.values(), strict=True):
        if expected is None:
            assert row["reasons"] == ["nonexistent_local_time"]
        else:
            assert (row["reasons"], row["listen_time"]) == ([], instant(expected))


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("epoch_seconds", {"1719309600": "2024-06-25 10:00:00", "1719309600.25": "2024-06-25 10:00:00.250000"}, "1e9"),
        ("epoch_milliseconds", {"1719309600123": "2024-06-25 10:00:00.123000"}, "1719309600.5"),
    ],
)
def test_numbers_are_times_only_where_the_contract_says_so(
    spark: SparkSession, form: str, good: dict[str, str], bad: str
) -> None:
    plain = load_contract(S)
    columns = [c.model_copy(update={"forms": (form,)}) if c.type == "timestamp" else c for c in plain.columns]
    contract = plain.model_copy(update={"columns": tuple(columns)})
    times = [*good, bad, "2024-06-25 10:00:00"]
    parsed = split_fields(records(spark, *(f"1,t,{time}" for time in times)), contract, HEADERS[S])
    found = check(parsed, contract, settings(f"source_time_zone={BERLIN}"))
    rows = found.frame.orderBy("line_number").select("listen_time", found.reasons_column()).collect()
    assert [row[0] for row in rows] == [*map(instant, good.values()), None, None]
    assert [row[1] for row in rows] == [*([[]] * len(good)), ["invalid_listen_time"], ["invalid_listen_time"]]


def test_the_future_is_judged_by_instants_not_by_local_clocks(spark: SparkSession) -> None:
    own = settings("source_time_zone=Asia/Kolkata")
    frame = checked(spark, S, "1,t,2024-06-27 05:30:00", "2,t,2024-06-27 05:30:01", own=own)
    assert [row["user_id"] for row in frame.kept.collect()] == [1]


def test_local_times_and_instants(spark: SparkSession) -> None:
    rows = [
        ("UTC", "2024-03-31 02:30:00", "2024-03-31 02:30:00"),
        (BERLIN, "2024-06-25 10:00:00", "2024-06-25 08:00:00"),
        (BERLIN, "2024-10-27 02:30:00", "2024-10-27 00:30:00"),
        (BERLIN, "2024-10-27 03:00:00", "2024-10-27 02:00:00"),
        ("Australia/Lord_Howe", "2024-04-07 01:45:00", "2024-04-06 14:45:00"),
        ("Asia/Kolkata", "2024-06-25 05:29:59", "2024-06-24 23:59:59"),
        ("America/St_Johns", "2024-11-03 01:30:00", "2024-11-03 04:00:00"),
    ]
    for zone, local, expected in rows:
        frame = spark.createDataFrame([(instant(local), instant(expected))], "local timestamp, expected timestamp")
        found = frame.withColumn("found", local_to_instant(F.col("local"), zone))
        assert_column_equality(found, "found", "expected")
        back = frame.withColumn("found", instant_to_local(F.col("expected"), zone))
        assert_column_equality(back, "found", "local")


def test_the_later_half_of_a_doubled_hour_has_the_same_clock(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(instant("2024-10-27 01:30:00"),)], "instant timestamp")
    row = frame.select(instant_to_local(F.col("instant"), BERLIN)).first()
    assert row is not None
    assert row[0] == instant("2024-10-27 02:30:00")


def test_names_are_trimmed_and_each_there_once_in_order(spark: SparkSession) -> None:
    rows = [
        ("A", ["A"]),
        ("A; A ;B;;", ["A", "B"]),
        (" B ;A;  B", ["B", "A"]),
        ("a;A", ["a", "A"]),
        (";; ;", []),
        ("A, B;C & D", ["A, B", "C & D"]),
    ]
    frame = spark.createDataFrame(rows, "text string, expected array<string>")
    assert_column_equality(frame.withColumn("found", names_list(F.col("text"))), "found", "expected")


def test_ages_are_told_in_bands(spark: SparkSession) -> None:
    ages = [(None, "unknown"), (-1, "unknown"), (0, "under 18"), (17, "under 18"), (18, "18-24"), (24, "18-24")]
    ages += [(25, "25-34"), (64, "55-64"), (65, "65+"), (130, "65+"), (131, "unknown")]
    frame = spark.createDataFrame(ages, "age bigint, expected string")
    assert_column_equality(frame.withColumn("found", age_band(F.col("age"))), "found", "expected")


def test_every_row_of_the_table_has_the_columns_of_its_header() -> None:
    assert {of for of, _, _ in ROWS} == set(HEADERS)
