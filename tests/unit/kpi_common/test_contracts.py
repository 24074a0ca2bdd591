from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from kpi_common.conf_files import CONF_DIR_VARIABLE
from kpi_common.contracts import Dataset, Severity, load_contract
from kpi_common.preflight import FileLimits, FileScan
from spark_app.errors import UsageError
from tests.unit.spark_app.builders import checked


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of contracts of one's own; what was read before is read anew, and again afterwards."""
    monkeypatch.setenv(CONF_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "contracts").mkdir()
    load_contract.cache_clear()
    yield tmp_path / "contracts"
    load_contract.cache_clear()


@pytest.mark.parametrize(
    ("dataset", "required"),
    [
        (Dataset.STREAMS, ("user_id", "track_id", "listen_time")),
        (Dataset.SONGS, ("track_id", "artists", "track_name", "duration_ms", "track_genre")),
        (Dataset.USERS, ("user_id",)),
    ],
)
def test_each_dataset_requires_what_the_design_says(dataset: Dataset, required: tuple[str, ...]) -> None:
    contract = load_contract(dataset)
    assert contract.dataset is dataset
    assert contract.required == required
    assert set(required) <= set(contract.names)


def test_only_streams_may_be_split_at_every_line_end() -> None:
    assert not load_contract(Dataset.STREAMS).newline_in_field
    assert load_contract(Dataset.SONGS).newline_in_field
    assert load_contract(Dataset.USERS).newline_in_field


def test_nothing_of_a_user_but_the_key_can_set_a_row_aside() -> None:
    contract = load_contract(Dataset.USERS)
    assert {rule.severity for rule in contract.rules} == {Severity.WARN}
    assert [
        column.name for column in contract.columns if column.invalid is Severity.QUARANTINE and column.required
    ] == ["user_id"]


HEAD = 'dataset = "users"\nnewline_in_field = true\n'
COLUMN = '[[columns]]\nname = "user_id"\ntype = "bigint"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "columns: Field required"),
        (HEAD + "columns = []\n", "columns: Tuple should have at least 1 item"),
        (HEAD + COLUMN.replace("bigint", "float"), r"columns\.0\.type: Input should be 'string', 'bigint'"),
        (HEAD + COLUMN + "requird = true\n", r"columns\.0\.requird: Extra inputs are not permitted"),
        (
            HEAD + COLUMN + '[[rules]]\nreason = "r"\ncolumn = "age"\ncheck = "range"\nmin = 0\nseverity = "warn"\n',
            "rule r: no column 'age' in the contract",
        ),
        (
            HEAD + COLUMN + '[[rules]]\nreason = "r"\ncolumn = "user_id"\ncheck = "range"\nseverity = "warn"\n',
            "rule r: a range needs `min` or `max`",
        ),
        (
            HEAD + COLUMN + '[[rules]]\nreason = "r"\ncolumn = "user_id"\ncheck = "range"\nmin = 0\nseverity = "no"\n',
            r"rules\.0\.severity: Input should be 'reject_file', 'quarantine' or 'warn'",
        ),
        (HEAD + COLUMN + COLUMN.replace('"user_id"', '"x"\nheader = "user_id"'), "same name in the source"),
        (HEAD + COLUMN + 'forms = ["local"]\n', "only a timestamp has `forms`"),
        (
            HEAD + COLUMN.replace("bigint", "timestamp") + 'forms = ["epoch_seconds", "epoch_milliseconds"]\n',
            "can't be told apart: name one",
        ),
    ],
)
def test_a_file_that_is_no_contract_says_where(conf: Path, text: str, message: str) -> None:
    (conf / "users.toml").write_text(text)
    with pytest.raises(UsageError, match=rf"conf/contracts/users\.toml: .*{message}"):
        load_contract(Dataset.USERS)


def test_a_contract_of_ones_own_is_taken(conf: Path) -> None:
    rule = '[[rules]]\nreason = "r"\ncolumn = "user_id"\ncheck = "range"\nmax = 9\nseverity = "reject_file"\n'
    (conf / "users.toml").write_text(HEAD + COLUMN + rule)
    contract = load_contract(Dataset.USERS)
    assert contract.rules[0].severity is Severity.REJECT_FILE
    assert contract.required == ()


def test_a_column_may_have_another_name_in_the_source(conf: Path) -> None:
    column = COLUMN + 'header = "uid"\nrequired = true\n'
    (conf / "users.toml").write_text(HEAD + column)
    contract = load_contract(Dataset.USERS)
    assert contract.translated(("name", "uid", "user_id")) == ("name", "user_id", "user_id (source)")
    scan = FileScan(contract, FileLimits())
    scan.read([b"user_id,name\n"], compressed=False)
    assert (scan.message or "").startswith("the header lacks required columns: `uid` (for user_id); it has: user_id")


MANY = "".join(f'[[columns]]\nname = "c{number}"\ntype = "string"\n' for number in range(24))
RULE = '[[rules]]\nreason = "r"\ncolumn = "user_id"\ncheck = "range"\nmin = 0\nseverity = "warn"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + COLUMN + MANY, "25 columns; at most 24"),
        (HEAD + COLUMN + RULE * 30, "36 checks of a row; at most 35"),
    ],
)
def test_a_contract_of_more_than_can_be_checked_is_refused(conf: Path, text: str, message: str) -> None:
    (conf / "users.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_contract(Dataset.USERS)


@pytest.mark.parametrize("dataset", Dataset)
def test_a_contract_knows_how_many_checks_it_makes(spark: SparkSession, dataset: Dataset) -> None:
    assert load_contract(dataset).checks == len(checked(spark, dataset, "").checks)
