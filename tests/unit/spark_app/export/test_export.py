"""Exports of a lake with one KPI: what is in them, their numbers, and runs that slept while they wrote one."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pyspark.sql import SparkSession

from kpi_common.conf_files import conf_file
from kpi_common.files import join
from kpi_common.local_files import LocalStorage
from spark_app.config.dynamodb_layout import DynamoDbLayout
from spark_app.errors import LockLostError
from spark_app.export import export
from spark_app.export.export import ExportState, delete_old_exports, export_changes, read_export_state
from spark_app.lake.lock import LakeLock
from spark_app.lake.tables import Lake, mark_lake
from spark_app.log import Steps
from spark_app.run.context import Context
from spark_app.run.result import RunResult
from spark_app.spark.local_frames import local_frame
from tests.unit.spark_app.builders import settings

LAYOUT = DynamoDbLayout.model_validate(
    {
        "max_text_bytes": 20,
        "tables": {
            "top_genres": {
                "name": "TopGenres",
                "partition_key": "date",
                "sort_key": "genre",
                "attributes": {
                    "date": {"column": "listen_date", "type": "S"},
                    "genre": {"column": "track_genre", "type": "S"},
                    "listens": {"column": "listen_count", "type": "N"},
                },
            }
        },
    }
)
SCHEMA = "listen_date string, track_genre string, listen_count bigint"
THROUGH = datetime(2024, 6, 26, tzinfo=UTC)
MONDAY, TUESDAY = "2024-06-24", "2024-06-25"


@dataclass
class Run:
    """A run on a lake: a lock of its own, which another's `take_over` takes away from it."""

    spark: SparkSession
    folder: Path
    run_id: str
    is_lost: bool = False
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        lake = Lake(str(self.folder), self.ensure_held)
        own = settings("export_part_items=1")
        result = RunResult(self.run_id, "run", lake.uri, None, THROUGH)
        self.context = Context(lambda: self.spark, own, lake, self.run_id, result, Steps())

    def ensure_held(self) -> None:
        if self.is_lost:
            raise LockLostError("another run took over")

    def publish(self, date: str, listens: int, genre: str = "pop") -> None:
        frame = local_frame(self.spark, [(date, genre, listens)], SCHEMA)
        frame = frame.withColumn("listen_date", frame.listen_date.cast("date"))
        self.context.lake.kpi("top_genres").replace(frame, f"listen_date = '{date}'", {}, ("listen_date",))

    def export(self, **options: Any) -> dict[str, Any] | None:
        return export_changes(self.context, THROUGH, **options)

    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "exports" / self.run_id / "manifest.json").read_bytes())
        return content

    def items(self) -> dict[str, str]:
        """Date: listens, of the export's items."""
        files = sorted((self.folder / "exports" / self.run_id).rglob("*.gz"))
        items = [json.loads(line)["Item"] for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
        return {item["date"]["S"]: item["listens"]["N"] for item in items}

    def deliver(self) -> None:
        (self.folder / "exports" / self.run_id / "delivered.json").touch()


@pytest.fixture(scope="module")
def first(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with two days, nothing exported yet; to be copied."""
    run = Run(spark, tmp_path_factory.mktemp("lake"), "first")
    mark_lake(run.context.lake, run.context.settings)
    run.publish(MONDAY, 250)
    run.publish(TUESDAY, 7)
    return run.folder


@pytest.fixture
def new_run(
    spark: SparkSession, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Run]]:
    monkeypatch.setattr(export, "load_layout", lambda: LAYOUT)
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    yield lambda run_id: Run(spark, tmp_path, run_id)
    schema = json.loads(conf_file("schemas/export_manifest.schema.json").read_bytes())
    for path in tmp_path.glob("exports/*/manifest.json"):
        Draft202012Validator(schema).validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize(("most", "chunks"), [(1, [[MONDAY], [TUESDAY, "2024-06-26"]]), (9, None)])
def test_so_many_rows_come_to_the_driver_at_once(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, most: int, chunks: list[list[str]] | None
) -> None:
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", most)
    frame = local_frame(spark, [(MONDAY,), (MONDAY,), (TUESDAY,)], "listen_date string")
    dates = [MONDAY, TUESDAY, "2024-06-26"]
    assert list(export._chunks({"hourly": frame, "top_songs": frame.limit(1)}, dates)) == (chunks or [dates])
    assert list(export._chunks({"hourly": frame}, dates[:1])) == [dates[:1]]


def test_each_export_has_what_changed_since_the_receipt_and_a_number_above(new_run: Callable[[str], Run]) -> None:
    one, two, three = map(new_run, ["one", "two", "three"])
    result = one.export()
    assert result == {"path": "exports/one/manifest.json", "export_seq": 1, "dates": 2, "items": 2}
    assert one.items() == {MONDAY: "250", TUESDAY: "7"}
    assert one.manifest()["lake_id"] == one.context.lake.lake_id
    assert two.export() is None
    assert two.context.result.warnings == ["export one has not been delivered yet"]
    one.deliver()
    assert two.export() is None
    two.publish(MONDAY, 400)
    assert (two.export() or {})["export_seq"] == 2
    assert two.items() == {MONDAY: "400"}
    assert (three.export(full=True) or {})["export_seq"] == 3
    assert three.items() == {MONDAY: "400", TUESDAY: "7"}
    assert [run.manifest()["changes_since"] for run in (one, two, three)] == [0, 1, 0]


def test_half_an_export_is_none(new_run: Callable[[str], Run]) -> None:
    one, two = map(new_run, ["one", "two"])
    one.export()
    one.deliver()
    (one.folder / "exports" / "one" / "manifest.json").unlink()
    assert (two.export() or {})["export_seq"] == 2
    assert two.items() == {MONDAY: "250", TUESDAY: "7"}


def test_the_number_goes_on_after_the_release_before_and_after_exports_that_are_gone(
    new_run: Callable[[str], Run],
) -> None:
    """That release took milliseconds; a clock that was ahead, or is back, changes nothing."""
    one, two, three = map(new_run, ["one", "two", "three"])
    one.export()
    ahead = 1_900_000_000_000
    path = one.folder / "exports" / "one" / "manifest.json"
    path.write_text(json.dumps(one.manifest() | {"export_seq": ahead}))
    (one.folder / "ops" / "export_seq.json").unlink()
    assert (two.export(full=True) or {})["export_seq"] == ahead + 1
    shutil.rmtree(two.folder / "exports")
    assert (three.export(full=True) or {})["export_seq"] == ahead + 2


@pytest.mark.parametrize("damaged", ["exports/one/manifest.json", "ops/export_seq.json"])
@pytest.mark.parametrize(
    "text", [pytest.param("", marks=pytest.mark.long), "[]", pytest.param("{}", marks=pytest.mark.long), "\x00"]
)
def test_a_damaged_file_does_not_stop_new_exports(new_run: Callable[[str], Run], damaged: str, text: str) -> None:
    one, two = new_run("one"), new_run("two")
    one.export()
    (one.folder / damaged).write_text(text)
    assert (two.export(full=True) or {})["export_seq"] == 2
    (one.folder / "exports" / "one" / "manifest.json").unlink()


POINTS = [
    ("read_tagged", "export_seq.json"),
    ("write_if", "export_seq.json"),
    ("delete_folder", "exports/sleeper"),
    ("write", ".json.gz"),
    ("write_if", "exports/sleeper/manifest.json"),
]


@pytest.mark.parametrize(
    ("method", "path", "delivered"),
    [
        pytest.param(*point, delivered, marks=[pytest.mark.long] * (delivered is (number % 2 == 0)))
        for number, point in enumerate(POINTS)
        for delivered in (True, False)
    ],
)
def test_what_a_run_exports_that_was_asleep_never_has_a_number_above_newer_figures(
    new_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, method: str, path: str, *, delivered: bool
) -> None:
    """It falls asleep right before it writes, later than any look at the lease, and its successor does all its work.

    As it was, 250 was exported after 400, with the higher number.
    """
    sleeper, successor, later = map(new_run, ["sleeper", "successor", "later"])
    real = getattr(LocalStorage, method)
    slept: list[str] = []

    def asleep(storage: LocalStorage, uri: str, *rest: Any) -> Any:
        if uri.endswith(path) and not slept:
            slept.append(uri)
            sleeper.is_lost = True
            successor.publish(MONDAY, 400)
            assert successor.export() is not None
            successor.deliver() if delivered else None
        return real(storage, uri, *rest)

    monkeypatch.setattr(LocalStorage, method, asleep)
    frames = {"top_genres": sleeper.context.lake.kpi("top_genres").read(sleeper.spark, 1)}
    sleeper.context.result.dirty_dates = [MONDAY, TUESDAY]
    with pytest.raises(LockLostError):
        sleeper.export(computed=frames)
    assert slept
    newest = read_export_state(later.context.lake).newest
    assert newest is not None
    assert newest["run_id"] == "successor"
    assert successor.items() == {MONDAY: "400", TUESDAY: "7"}
    assert later.export() is None
    assert (later.export(full=True) or {})["export_seq"] > newest["export_seq"]


def test_a_successor_goes_on_though_a_sleeper_claimed_the_number_meanwhile(
    new_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sleeper's claim lands late, but before the successor's: that takes the next number."""
    sleeper, successor = new_run("sleeper"), new_run("successor")
    real = LocalStorage.write_if
    claims: list[str] = []

    def late(storage: LocalStorage, uri: str, data: bytes, tag: str | None) -> str | None:
        if uri.endswith("export_seq.json") and not claims:
            claims.append(uri)
            assert export._claim_seq(sleeper.context.lake, ExportState((), frozenset()), "sleeper") == 1
        return real(storage, uri, data, tag)

    monkeypatch.setattr(LocalStorage, "write_if", late)
    assert (successor.export() or {})["export_seq"] == 2


def test_two_runs_with_real_locks_export_in_the_order_of_their_locks(
    new_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, successor = new_run("sleeper"), new_run("successor")
    uri = join(sleeper.context.lake.uri, "ops/lake.lock")
    locks = [LakeLock(LocalStorage(), uri, run.run_id, lease_seconds=1) for run in (sleeper, successor)]
    for run, lock in zip((sleeper, successor), locks, strict=True):
        monkeypatch.setattr(run, "ensure_held", lock.ensure_held)
        run.__post_init__()
    monkeypatch.setattr(locks[0], "_renew_until_stopped", lambda: None)
    locks[0].acquire(0)
    real = export._write_export

    def asleep(*arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(export, "_write_export", real)
        locks[1].acquire(5)
        successor.publish(MONDAY, 400)
        successor.export()
        return real(*arguments)

    monkeypatch.setattr(export, "_write_export", asleep)
    with pytest.raises(LockLostError):
        sleeper.export()
    assert (sleeper.folder / "exports" / "sleeper").exists() is False
    assert successor.manifest()["export_seq"] == 2
    locks[1].release()


def test_old_exports_that_a_newer_delivered_one_contains_are_deleted(new_run: Callable[[str], Run]) -> None:
    one, two, three = map(new_run, ["one", "two", "three"])
    one.export(full=True)
    two.export(full=True)
    delete_old_exports(two.context, 30)
    assert (one.folder / "exports" / "one").exists()
    two.deliver()
    three.export(full=True)
    three.is_lost = True
    with pytest.raises(LockLostError):
        delete_old_exports(three.context, 0)
    three.is_lost = False
    delete_old_exports(three.context, 0)
    assert sorted(path.name for path in (one.folder / "exports").iterdir()) == ["three", "two"]


def test_what_a_killed_run_left_of_its_export_goes_and_an_unreadable_manifest_stays(
    new_run: Callable[[str], Run],
) -> None:
    run = new_run("one")
    exports = run.folder / "exports"
    for name in ("killed/part-1.jsonl.gz", "damaged/manifest.json", "damaged/part-1.jsonl.gz"):
        (exports / name).parent.mkdir(parents=True, exist_ok=True)
        (exports / name).write_bytes(b"")
    delete_old_exports(run.context, 30)
    assert sorted(path.name for path in exports.iterdir()) == ["damaged", "killed"]
    delete_old_exports(run.context, 0)
    assert sorted(path.name for path in exports.iterdir()) == ["damaged"]
    shutil.rmtree(exports / "damaged")


def test_the_newest_delivered_is_the_one_with_the_highest_number_that_has_a_receipt() -> None:
    def state(*exports: tuple[str, int], delivered: str = "") -> ExportState:
        return ExportState(tuple({"run_id": run, "export_seq": seq} for run, seq in exports), frozenset(delivered))

    exports = [("a", 1), ("c", 3), ("b", 2)]
    assert state(*exports).newest_delivered is None
    assert (state(*exports, delivered="ab").newest_delivered or {})["run_id"] == "b"
    assert (state(*exports, delivered="ab").newest or {})["run_id"] == "c"
    assert state().newest is None
