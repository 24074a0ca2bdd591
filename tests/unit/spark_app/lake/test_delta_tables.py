"""One real Delta table each: what is replaced, and what the log says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chispa import assert_df_equality
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession

from spark_app.errors import LockLostError, UsageError
from spark_app.lake.delta_tables import LogGoneError, Table


def rows(spark: SparkSession, *given: tuple[int, str, int]) -> DataFrame:
    frame = spark.createDataFrame(list(given), "file_id int, listen_date string, n int").coalesce(1)
    return frame.selectExpr("file_id", "to_date(listen_date) AS listen_date", "n")


def replace(table: Table, frame: DataFrame, where: str | None, **metadata: object) -> int:
    return table.replace(frame, where, metadata, ("listen_date",))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(str(tmp_path / "table"))


def test_a_files_rows_are_replaced_in_one_commit_and_others_stay(spark: SparkSession, table: Table) -> None:
    """And the log says whose dates changed: those that the file had, and those that it has."""
    assert table.version() == -1
    first = rows(spark, (1, "2024-06-01", 1), (2, "2024-06-01", 2), (1, "2024-06-02", 3), (2, "2024-06-04", 4))
    assert replace(table, first, "file_id IN (1, 2)", run_id="one") == 0
    assert replace(table, rows(spark, (1, "2024-06-03", 9)), "file_id IN (1)", run_id="two") == 1
    left = rows(spark, (2, "2024-06-01", 2), (2, "2024-06-04", 4), (1, "2024-06-03", 9))
    assert_df_equality(table.read(spark), left, ignore_row_order=True, ignore_nullable=True)
    assert_df_equality(table.read(spark, 0), first, ignore_row_order=True, ignore_nullable=True)
    assert table.changed_dates(0) == {"2024-06-01", "2024-06-02", "2024-06-03"}
    assert table.changed_dates(1) == set()
    assert [commit.user_metadata["run_id"] for commit in table.commits_back()] == ["one", "two"]
    assert table.changed_dates(-1, until=0) == {"2024-06-01", "2024-06-02", "2024-06-04"}

    # An empty frame takes the file's rows away.
    replace(table, rows(spark).where("false"), "file_id IN (2)")
    assert {row["file_id"] for row in table.read(spark).collect()} == {1}
    assert table.changed_dates(1) == {"2024-06-01", "2024-06-04"}
    # Where there is nothing to take away either, no date is changed.
    version = replace(table, rows(spark).where("false"), "file_id IN (2)")
    assert version == table.version()
    assert table.changed_dates(version - 1) == set()

    # Merging small files changes no data; so no date.
    table.compact(spark, retention_days=30)
    assert table.changed_dates(version) == set()

    table.restore(spark, 0, {"run_id": "three"})
    assert_df_equality(table.read(spark), first, ignore_row_order=True, ignore_nullable=True)
    table.restore(spark, -1, {})
    assert table.read(spark).count() == 0

    (Path(table.uri) / "_delta_log" / f"{1:020}.json").unlink()
    with pytest.raises(LogGoneError):
        table.changed_dates(0)


def test_manifests_are_kept_with_each_commit_once_they_are_asked_for(spark: SparkSession, table: Table) -> None:
    replace(table, rows(spark, (1, "2024-06-01", 1), (1, "2024-06-02", 2)), None)
    table.keep_manifests(spark)
    version = table.version()
    table.keep_manifests(spark)
    assert table.version() == version
    replace(table, rows(spark, (2, "2024-06-02", 3), (2, "2024-06-03", 4)), "listen_date >= '2024-06-02'")
    replace(table, rows(spark).where("false"), "listen_date = '2024-06-01'")
    listed = {}
    for manifest in Path(table.uri).glob("_symlink_format_manifest/*/manifest"):
        listed[manifest.parent.name] = {line.rpartition("/")[2] for line in manifest.read_text("utf-8").split()}
    files = {Path(path).name for path in table.read(spark).inputFiles()}
    assert sorted(listed) == ["listen_date=2024-06-02", "listen_date=2024-06-03"]
    assert set().union(*listed.values()) == files
    assert table.changed_dates(version, version + 1) == {"2024-06-02", "2024-06-03"}


def test_a_lost_lock_stops_the_commit(spark: SparkSession, tmp_path: Path) -> None:
    def lost() -> None:
        raise UsageError("the lock is lost")

    table = Table(str(tmp_path / "table"), before_commit=lost)
    with pytest.raises(UsageError, match="the lock is lost"):
        table.replace(rows(spark, (1, "2024-06-01", 1)), None, {})
    assert table.version() == -1


def saving(monkeypatch: pytest.MonkeyPatch, save: Callable[[Callable[[], None]], None]) -> None:
    """Have this function called in the place of the next save; it is given the real one."""
    real = DataFrameWriter.save

    def wrapped(writer: DataFrameWriter, path: str) -> None:
        monkeypatch.setattr(DataFrameWriter, "save", real)
        save(lambda: real(writer, path))

    monkeypatch.setattr(DataFrameWriter, "save", wrapped)


def test_a_commit_is_found_though_others_were_made_after_it(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was, the version of the other run was returned, and its rows were counted back."""
    replace(table, rows(spark, (1, "2024-06-01", 1)), None)

    def then_another(save: Callable[[], None]) -> None:
        save()
        replace(Table(table.uri), rows(spark, (3, "2024-06-03", 3)), "file_id IN (3)")

    saving(monkeypatch, then_another)
    assert replace(table, rows(spark, (2, "2024-06-02", 2)), "file_id IN (2)") == 1
    assert table.version() == 2


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_commit_whose_reply_was_lost_counts_as_done(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    for number in range(earlier):
        replace(table, rows(spark, (number, "2024-06-01", 1)), None)

    def and_lose_the_reply(save: Callable[[], None]) -> None:
        save()
        raise OSError("connection reset")

    saving(monkeypatch, and_lose_the_reply)
    assert replace(table, rows(spark, (7, "2024-06-02", 2)), "file_id IN (7)") == earlier
    assert table.read(spark).count() == earlier + 1


def test_a_commit_that_failed_is_not_taken_for_that_of_another(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(table, rows(spark, (1, "2024-06-01", 1)), None)

    def fail(_save: Callable[[], None]) -> None:
        replace(Table(table.uri), rows(spark, (3, "2024-06-03", 3)), "file_id IN (3)")
        raise OSError("disk full")

    saving(monkeypatch, fail)
    with pytest.raises(OSError, match="disk full"):
        replace(table, rows(spark, (2, "2024-06-02", 2)), "file_id IN (2)")


def test_a_commit_that_failed_as_another_run_took_over_says_so(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def lost_at_the_second_look() -> None:
        looks.append(1)
        if len(looks) > 1:
            raise LockLostError("another run took over")

    def conflict(_save: Callable[[], None]) -> None:
        raise OSError("ConcurrentAppendException")

    saving(monkeypatch, conflict)
    with pytest.raises(LockLostError):
        replace(Table(table.uri, lost_at_the_second_look), rows(spark, (1, "2024-06-01", 1)), None)


@pytest.mark.parametrize("way", ["replace", "restore"])
def test_a_run_that_slept_since_its_look_at_the_lock_does_not_replace_what_another_has_written(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As it was, old figures took the place of the newer ones: Delta itself begins with what is there when it wakes."""
    theirs, lost = rows(spark, (1, "2024-06-01", 2)), []

    def ensure_held() -> None:
        if lost:
            raise LockLostError("another run took over")

    def after_another(save: Callable[[], None]) -> None:
        lost.append(True)
        replace(Table(table.uri), theirs, "file_id IN (1)")
        save()

    for number in (0, 1):
        replace(table, rows(spark, (1, "2024-06-01", number)), None)
    saving(monkeypatch, after_another)
    asleep = Table(table.uri, ensure_held)
    write = {
        "replace": lambda: replace(asleep, rows(spark, (1, "2024-06-01", 1)), "file_id IN (1)"),
        "restore": lambda: asleep.restore(spark, 0, {}),
    }[way]
    with pytest.raises(LockLostError):
        write()
    assert_df_equality(table.read(spark), theirs, ignore_nullable=True)


def test_a_first_write_does_not_replace_what_another_run_has_written_meanwhile(
    spark: SparkSession, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was, a run that slept there emptied the table of all that its successor had staged."""
    theirs = rows(spark, (1, "2024-06-01", 1))

    def after_another(save: Callable[[], None]) -> None:
        replace(Table(table.uri), theirs, None)
        save()

    saving(monkeypatch, after_another)
    with pytest.raises(AnalysisException, match="DELTA_PATH_EXISTS"):
        replace(table, rows(spark, (2, "2024-06-02", 2)), "file_id IN (2)")
    assert_df_equality(table.read(spark), theirs, ignore_nullable=True)


def test_what_a_broken_off_first_write_left_is_written_over(spark: SparkSession, table: Table) -> None:
    """Files without a log: only where the application itself began to write them is the table taken as not there."""
    good = rows(spark, (1, "2024-06-01", 1))
    bad = rows(spark, (2, "2024-06-02", 2)).selectExpr(
        "file_id", "listen_date", "IF(n = 2, raise_error('full'), n) AS n"
    )
    with pytest.raises(Py4JJavaError):
        replace(table, good.union(bad), None)
    # Whether the good row's task had ended by then is chance, so a file that it may have left is laid there.
    left = Path(table.uri) / "listen_date=2024-06-01" / "part-left.parquet"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    assert table.version() == -1
    assert replace(table, good, "file_id IN (1)") == 0
    assert_df_equality(table.read(spark), good, ignore_nullable=True)
    (Path(table.uri) / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(UsageError, match="no Delta table"):
        table.version()


def test_a_folder_that_is_no_table_is_named(table: Table) -> None:
    (Path(table.uri)).mkdir()
    assert table.version() == -1
    (Path(table.uri) / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no Delta table"):
        table.version()


def test_what_a_commit_added_is_read_from_its_own_files(spark: SparkSession, tmp_path: Path) -> None:
    table = Table(str(tmp_path / "odd {a,b}[1]*? %20 ü"))
    replace(table, rows(spark, (1, "2024-06-01", 1), (2, "2024-06-01", 2)), None)
    version = replace(table, rows(spark, (3, "2024-06-01", 3), (3, "2024-06-02", 4)), "file_id IN (3)")
    added = table.read_added(spark, table.commit(version), {"file_id": "int", "n": "int"})
    assert sorted(map(tuple, added.collect())) == [(3, 3), (3, 4)]
    emptied = replace(table, rows(spark).where("false"), "file_id IN (3)")
    assert table.read_added(spark, table.commit(emptied), {"file_id": "int"}).count() == 0


def test_rows_that_are_only_marked_as_deleted_are_not_read(spark: SparkSession, table: Table) -> None:
    replace(table, rows(spark, (1, "2024-06-01", 1), (2, "2024-06-01", 2)), None)
    name = f"delta.`{table.uri}`"
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES (delta.enableDeletionVectors = true)")
    spark.sql(f"DELETE FROM {name} WHERE n = 1")  # noqa: S608 (a path of ours)
    added = table.read_added(spark, table.commit(table.version()), {"file_id": "int"})
    assert [row["file_id"] for row in added.collect()] == [2]
