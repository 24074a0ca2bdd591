"""Deliveries to a real DynamoDB, undisturbed."""

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mypy_boto3_dynamodb import DynamoDBClient

from kpi_common.conf_files import load_schema
from kpi_pipeline.dynamodb.items import MAX_ITEM_BYTES, item_size
from kpi_pipeline.errors import ExportError, OtherLakeError, TableError
from tests.integration.delivery_helpers import (
    STATUS,
    day,
    days,
    expected,
    kpis,
    run_delivery,
    scan,
    statuses,
)
from tests.support.dynamodb_proxy import PASS
from tests.support.export_files import DAILY, TABLES, change_manifest, dynamodb_json, write_export

pytestmark = pytest.mark.integration


def test_first_delivery_makes_tables_and_writes_all(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    june = days(5, genres=30)
    run_id = write_export(tmp_path, 1, june)
    outcome = run_delivery(tmp_path, table_prefix)
    assert outcome.outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(june)
    assert outcome.receipt["tables"][DAILY] == {"put": 150, "deleted": 0, "unchanged": 0, "requests": 8, "retries": 0}
    receipt = json.loads((tmp_path / "exports" / run_id / "delivered.json").read_text())
    assert receipt == outcome.receipt
    Draft202012Validator(load_schema("delivery_receipt")).validate(receipt)
    status = statuses(dynamodb, table_prefix)
    assert sorted(status) == sorted(june)
    assert {key: status["2024-06-01"][key] for key in ("state", "version", "run_id", "complete_through")} == {
        "state": "complete",
        "version": Decimal(1),
        "run_id": run_id,
        "complete_through": "2024-06-26T01:02:03Z",
    }
    by_genre = dynamodb.query(
        TableName=table_prefix + DAILY,
        IndexName="genre-date-index",
        KeyConditionExpression="genre = :genre",
        ExpressionAttributeValues={":genre": {"S": "genre-003"}},
    )
    assert by_genre["Count"] == 5


def test_nothing_to_deliver(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    assert run_delivery(tmp_path, table_prefix).outcome == "nothing_to_deliver"
    write_export(tmp_path, 1, days(1))
    run_delivery(tmp_path, table_prefix)
    write_export(tmp_path, 2, days(2), finished=False)
    assert run_delivery(tmp_path, table_prefix).outcome == "nothing_to_deliver"
    assert dynamodb.describe_table(TableName=table_prefix + STATUS)["Table"]["ItemCount"] == 2


def test_delivering_again_writes_nothing(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Any
) -> None:
    write_export(tmp_path, 1, days(3))
    run_delivery(tmp_path, table_prefix)
    before = statuses(dynamodb, table_prefix)
    proxy = faulty_dynamodb(lambda _: PASS)
    outcome = run_delivery(tmp_path, table_prefix, "run-1", proxy.url)
    assert outcome.receipt["tables"][DAILY] == {"put": 0, "deleted": 0, "unchanged": 9, "requests": 0, "retries": 0}
    assert proxy.count("BatchWriteItem") == proxy.count("TransactWriteItems") == 0
    assert statuses(dynamodb, table_prefix) == before


def test_only_what_differs_is_written(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, faulty_dynamodb: Any
) -> None:
    june = days(2, genres=40)
    write_export(tmp_path, 1, june)
    run_delivery(tmp_path, table_prefix)
    items = [dict(item) for item in june["2024-06-02"][DAILY]]
    items[7]["listen_count"] = 999
    items[8]["avg_track_duration"] = Decimal("201500.1250")  # the same number
    del items[9]
    changed = {"2024-06-02": {**june["2024-06-02"], DAILY: items}}
    write_export(tmp_path, 2, changed)
    proxy = faulty_dynamodb(lambda _: PASS)
    run_delivery(tmp_path, table_prefix, endpoint_url=proxy.url)
    (request,) = proxy.of("BatchWriteItem")
    written = {kind: entry[kind] for _, entry in request.writes for kind in entry}
    assert len(request.writes) == 2
    assert written["PutRequest"]["Item"]["genre"] == {"S": "genre-007"}
    assert written["DeleteRequest"]["Key"] == {"date": {"S": "2024-06-02"}, "genre": {"S": "genre-009"}}
    assert kpis(dynamodb, table_prefix) == expected(june, changed)


def test_a_date_without_items_is_emptied(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    june = days(2)
    write_export(tmp_path, 1, june)
    run_delivery(tmp_path, table_prefix)
    emptied: dict[str, Any] = {"2024-06-01": {}}
    write_export(tmp_path, 2, emptied)
    outcome = run_delivery(tmp_path, table_prefix)
    assert outcome.receipt["tables"][DAILY]["deleted"] == 3
    assert kpis(dynamodb, table_prefix) == expected(june, emptied)
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["version"] == 2


def test_only_the_newest_undelivered_export_counts(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    older, newer = days(2, plays=1), days(2, plays=2)
    write_export(tmp_path, 1, older)
    write_export(tmp_path, 2, newer)
    assert run_delivery(tmp_path, table_prefix).run_id == "run-2"
    assert run_delivery(tmp_path, table_prefix).outcome == "nothing_to_deliver"
    assert run_delivery(tmp_path, table_prefix, "run-1").outcome == "superseded"
    assert not (tmp_path / "exports" / "run-1" / "delivered.json").exists()
    assert kpis(dynamodb, table_prefix) == expected(newer)


def test_rebuilt_lake_is_not_taken_for_an_old_export(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    for lake in ("old", "new"):
        (tmp_path / lake).mkdir()
    write_export(tmp_path / "old", 5, days(2))
    run_delivery(tmp_path / "old", table_prefix)
    write_export(tmp_path / "new", 5, days(1, plays=3), run_id="another")
    with pytest.raises(OtherLakeError, match="export_seq 5 was already used by run run-5"):
        run_delivery(tmp_path / "new", table_prefix)
    write_export(tmp_path / "new", 1, days(2, plays=4), run_id="first-again")
    assert run_delivery(tmp_path / "new", table_prefix, "first-again").outcome == "superseded"
    outcome = run_delivery(tmp_path / "new", table_prefix, "first-again", adopt_lake=True)
    assert outcome.outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(days(2, plays=4))
    write_export(tmp_path / "new", 2, days(1, plays=5))
    assert run_delivery(tmp_path / "new", table_prefix, "run-2").outcome == "delivered"


def test_another_lake_is_refused_until_it_is_told_to_take_the_tables_over(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    """Whatever its numbers are. As it was, a higher one overwrote without a word, and a lower one was a success."""
    for lake in ("old", "new"):
        (tmp_path / lake).mkdir()
    write_export(tmp_path / "old", 5, days(2), lake_id="old")
    run_delivery(tmp_path / "old", table_prefix)
    before = kpis(dynamodb, table_prefix)
    for export_seq in (1, 5, 9):
        write_export(tmp_path / "new", export_seq, days(2, plays=export_seq), lake_id="new")
        with pytest.raises(OtherLakeError, match=r"from another lake \(old; this is new\).* or --adopt-lake"):
            run_delivery(tmp_path / "new", table_prefix, f"run-{export_seq}")
    assert kpis(dynamodb, table_prefix) == before
    assert run_delivery(tmp_path / "new", table_prefix, "run-1", adopt_lake=True).outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(days(2, plays=1))
    write_export(tmp_path / "new", 2, days(1, plays=5), lake_id="new")
    assert run_delivery(tmp_path / "new", table_prefix, "run-2").outcome == "delivered"
    assert run_delivery(tmp_path / "new", table_prefix, "run-1").outcome == "superseded"
    with pytest.raises(OtherLakeError, match="new; this is old"):
        run_delivery(tmp_path / "old", table_prefix, "run-5")


def test_a_lake_of_the_release_before_goes_on_with_its_id_and_a_rebuilt_one_is_refused(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    """As it was, one that was rebuilt after a clock that had been ahead delivered nothing, and that as a success."""
    for lake in ("lake", "rebuilt"):
        (tmp_path / lake).mkdir()
    write_export(tmp_path / "lake", 1_900_000_000_000, days(2))
    run_delivery(tmp_path / "lake", table_prefix)
    write_export(tmp_path / "rebuilt", 1, days(2, plays=3), lake_id="rebuilt")
    with pytest.raises(OtherLakeError, match=r"another lake \(without an id; this is rebuilt\)"):
        run_delivery(tmp_path / "rebuilt", table_prefix)
    write_export(tmp_path / "lake", 1_900_000_000_001, days(1, plays=4), lake_id="lake")
    assert run_delivery(tmp_path / "lake", table_prefix).outcome == "delivered"
    with pytest.raises(OtherLakeError, match="lake; this is rebuilt"):
        run_delivery(tmp_path / "rebuilt", table_prefix)
    assert run_delivery(tmp_path / "rebuilt", table_prefix, adopt_lake=True).outcome == "delivered"
    assert kpis(dynamodb, table_prefix) == expected(days(2, plays=3))


def test_undeliverable_items_are_listed_and_the_rest_goes_on(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    june = days(1)
    good = june["2024-06-01"][DAILY]
    twin = {**good[0], "listen_count": 77}
    large = {"date": "2024-06-01", "genre": "large", "text": "é" * (MAX_ITEM_BYTES // 2)}
    nameless = {"date": "2024-06-01", "genre": ""}
    long_key = {"date": "2024-06-01", "genre": "k" * 1025}
    write_export(tmp_path, 1, {"2024-06-01": {DAILY: [*good, twin, large, nameless, long_key]}})
    outcome = run_delivery(tmp_path, table_prefix)
    listed = {(entry["key"]["genre"]["S"][:5], entry["reason"]) for entry in outcome.receipt["undeliverable"]}
    assert listed == {("genre", "duplicate_key"), ("large", "too_large"), ("", "bad_key"), ("kkkkk", "bad_key")}
    assert scan(dynamodb, table_prefix + DAILY) == expected(june)[DAILY]
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["undeliverable"] == 4
    Draft202012Validator(load_schema("delivery_receipt")).validate(outcome.receipt)
    assert run_delivery(tmp_path, table_prefix, "run-1").receipt["tables"][DAILY]["requests"] == 0


def test_sizes_are_counted_as_dynamodb_does(dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path) -> None:
    """Items just within the limit are taken, the same with one byte more are not: by the real engine and by ours."""
    shapes: dict[str, dict[str, Any]] = {
        "text": {"text": "東京"},
        "numbers": {"n": [1, Decimal("-12.345"), 0, Decimal(100000), Decimal("1E-20"), Decimal("0.001"), 123]},
        "lists": {"names": ["ключ", "", "v"], "nested": {"L": [{"L": [{"N": "1"}]}]}, "empty": []},
    }
    write_export(tmp_path, 1, {})
    run_delivery(tmp_path, table_prefix)
    for name, attributes in shapes.items():
        item = {key: dynamodb_json(value) for key, value in {"date": "d", "genre": name, **attributes}.items()}
        item["pad"] = {"S": ""}
        padded = {**item, "pad": {"S": "x" * (MAX_ITEM_BYTES - item_size(item))}}
        assert item_size(padded) == MAX_ITEM_BYTES
        dynamodb.put_item(TableName=table_prefix + DAILY, Item=padded)
        padded["pad"]["S"] += "x"
        with pytest.raises(dynamodb.exceptions.ClientError, match="size has exceeded"):
            dynamodb.put_item(TableName=table_prefix + DAILY, Item=padded)


def test_batches_of_large_items_stay_under_the_limit(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    text = "\x01é" * 120_000  # six bytes of JSON for one that DynamoDB counts
    items = [{"date": "2024-06-01", "genre": f"g{number}", "text": text} for number in range(30)]
    write_export(tmp_path, 1, {"2024-06-01": {DAILY: items}})
    outcome = run_delivery(tmp_path, table_prefix)
    assert outcome.receipt["tables"][DAILY]["put"] == 30
    assert kpis(dynamodb, table_prefix)[DAILY] == expected({"2024-06-01": {DAILY: items}})[DAILY]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            [("date", "S", "HASH"), ("track_genre", "S", "RANGE")],
            r"keys are \(date S, track_genre S\), wanted \(date S",
        ),
        ([("genre", "S", "HASH"), ("date", "S", "RANGE")], "keys are"),
        ([("date", "S", "HASH")], "keys are"),
        ([("date", "S", "HASH"), ("genre", "N", "RANGE")], "keys are"),
        ([("date", "S", "HASH"), ("genre", "S", "RANGE")], "the index genre-date-index is missing"),
    ],
)
def test_existing_table_of_another_layout_is_refused(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path, keys: list[tuple[str, str, str]], told: str
) -> None:
    dynamodb.create_table(
        TableName=table_prefix + DAILY,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, _, kind in keys],  # type: ignore[typeddict-item]
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": kind}  # type: ignore[typeddict-item]
            for name, kind, _ in keys
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    write_export(tmp_path, 1, days(1))
    with pytest.raises(TableError, match=told):
        run_delivery(tmp_path, table_prefix)
    assert scan(dynamodb, table_prefix + DAILY) == []


def test_provisioned_tables_and_another_layout_need_only_settings(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    layout: dict[str, Any] = {
        "day": {
            "partition_key": {"name": "day", "type": "S"},
            "sort_key": {"name": "rank", "type": "N"},
            "indexes": [],
        },
        "whole_day": {"partition_key": {"name": "day", "type": "S"}},
    }
    items = [{"day": "2024-06-01", "rank": rank, "x": "ü"} for rank in (1, 2, 10)]
    for export_seq, some in ((1, items), (2, items[1:])):
        exported: dict[str, Any] = {"2024-06-01": {"day": some, "whole_day": [{"day": "2024-06-01", "n": export_seq}]}}
        write_export(tmp_path, export_seq, exported, tables=layout)
        run_delivery(tmp_path, table_prefix, billing_mode="PROVISIONED", read_units=7, write_units=9)
    table = dynamodb.describe_table(TableName=f"{table_prefix}day")["Table"]
    assert table["ProvisionedThroughput"]["WriteCapacityUnits"] == 9
    assert sorted(item["rank"] for item in scan(dynamodb, f"{table_prefix}day")) == [2, 10]
    assert scan(dynamodb, f"{table_prefix}whole_day") == [{"day": "2024-06-01", "n": 2}]


def test_an_item_that_only_dynamodb_refuses_is_left_out_and_its_old_version_goes(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    good = days(2)
    write_export(tmp_path, 1, good)
    run_delivery(tmp_path, table_prefix)
    bad = {key: dynamodb_json(value) for key, value in good["2024-06-01"][DAILY][0].items()} | {"n": {"N": "1" * 40}}
    items = [*good["2024-06-01"][DAILY]]
    items[0] = bad
    write_export(tmp_path, 2, {**good, "2024-06-01": {**good["2024-06-01"], DAILY: items}})
    outcome = run_delivery(tmp_path, table_prefix)
    (left_out,) = outcome.receipt["undeliverable"]
    assert left_out["reason"].startswith("refused: ")
    assert left_out["key"]["genre"] == bad["genre"]
    without = {**good["2024-06-01"], DAILY: [item for number, item in enumerate(items) if number != 0]}
    assert kpis(dynamodb, table_prefix) == expected({**good, "2024-06-01": without})
    assert statuses(dynamodb, table_prefix)["2024-06-01"]["undeliverable"] == 1
    assert {status["state"] for status in statuses(dynamodb, table_prefix).values()} == {"complete"}


def test_half_an_export_is_refused_before_anything_is_written(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    write_export(tmp_path, 1, days(5))
    (tmp_path / "exports" / "run-1" / DAILY / "part-00002.json.gz").unlink()
    with pytest.raises(ExportError, match=r"DailyGenreKPIs/part-00002\.json\.gz is missing"):
        run_delivery(tmp_path, table_prefix)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if name.startswith(table_prefix)]


def test_layout_whose_partition_key_is_not_the_date_is_refused(
    dynamodb: DynamoDBClient, table_prefix: str, tmp_path: Path
) -> None:
    keys = {"partition_key": {"name": "genre", "type": "S"}, "sort_key": {"name": "date", "type": "S"}}
    write_export(tmp_path, 1, days(1), tables={**TABLES, DAILY: keys})
    with pytest.raises(ExportError, match="partition key of DailyGenreKPIs must be the date"):
        run_delivery(tmp_path, table_prefix)
    change_manifest(tmp_path, "run-1", schema_version=2)
    with pytest.raises(ExportError, match="made by a newer application"):
        run_delivery(tmp_path, table_prefix)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if name.startswith(table_prefix)]


DATES = ("2024-06-01", "2024-06-02", "2024-06-03")
histories = st.lists(
    st.one_of(
        st.tuples(
            st.just("change"),
            st.sampled_from(DATES),
            st.sets(st.sampled_from(["pop", "r-n-b", "東京"])),
            st.integers(0, 2),
        ),
        st.tuples(st.just("deliver"), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_any_order_of_deliveries_ends_with_the_newest_state(
    dynamodb: DynamoDBClient, tmp_path_factory: pytest.TempPathFactory, history: list[tuple[Any, ...]]
) -> None:
    """Exports hold what changed since the newest receipt; they are delivered in any order, repeatedly or never."""
    lake = tmp_path_factory.mktemp("lake")
    prefix = f"{uuid.uuid4().hex[:8]}-"
    state: dict[str, Any] = {}
    changed_at: dict[str, int] = {}
    newest, receipt = 0, 0
    for action, *details in [*history, ("change", DATES[0], {"last"}, 9)]:
        if action == "change":
            date, genres, plays = details
            newest += 1
            state[date], changed_at[date] = day(date, sorted(genres), plays), newest
            write_export(lake, newest, {date: state[date] for date in state if changed_at[date] > receipt})
        elif newest:
            chosen = 1 + details[0] % newest
            if run_delivery(lake, prefix, f"run-{chosen}").outcome == "delivered":
                receipt = max(receipt, chosen)
    run_delivery(lake, prefix)
    assert kpis(dynamodb, prefix) == expected(state)
    assert {(item["state"], item["version"] <= newest) for item in statuses(dynamodb, prefix).values()} == {
        ("complete", True)
    }
