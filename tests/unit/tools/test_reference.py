"""The page that is made of the code and conf/ is what these say now."""

from tools.reference import PAGE, reference


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m tools.reference writes it again"


def test_it_has_a_kpi_a_rule_and_a_setting() -> None:
    page = reference()
    assert "popularity_index = sum of popularity over listens / 100" in page
    assert "| `duration_ms_out_of_range` | `duration_ms` | 0 to 86400000 | quarantine |" in page
    assert '| `kpi_time_zone` | `"UTC"` |' in page
