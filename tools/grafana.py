"""`python -m tools.grafana`: write the Grafana dashboard of the pipeline's figures, `conf/grafana/….json`."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from tools.toolchain import ROOT

PATH = ROOT / "conf" / "grafana" / "music_streaming_kpis.json"
LAKE = '{lake=~"$lake"}'
SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")


@dataclass(frozen=True)
class Panel:
    """A number as it is now, or lines over time (`legend` names each); units as Grafana calls them."""

    title: str
    unit: str
    query: str
    legend: str = ""


BAD = 'music_kpis_rows{lake=~"$lake", dataset="streams", outcome=~"quarantined|waiting"}'
READ = 'music_kpis_rows{lake=~"$lake", dataset="streams", outcome=~"valid|duplicates|quarantined"}'
PANELS = (
    Panel("Last run succeeded", "bool_yes_no", f"music_kpis_run_succeeded{LAKE}"),
    Panel("Since the last success", "s", f"time() - music_kpis_last_success_timestamp_seconds{LAKE}"),
    Panel("Age of the newest file in KPIs", "s", f"time() - music_kpis_complete_through_timestamp_seconds{LAKE}"),
    Panel("Quality score, of 100 rows", "none", f"music_kpis_quality_score{LAKE}"),
    Panel("Rows", "short", f"sum by (dataset, outcome) (music_kpis_rows{LAKE})", "{{dataset}} {{outcome}}"),
    Panel(
        "Quarantined and waiting listens",
        "percentunit",
        f"sum by (outcome) ({BAD}) / on () group_left () (sum({READ}) > 0)",
        "{{outcome}}",
    ),
    Panel("Files", "short", f"sum by (outcome) (music_kpis_files{LAKE})", "{{outcome}}"),
    Panel("Steps of the job", "s", f"sum by (step) (music_kpis_step_seconds{LAKE})", "{{step}}"),
    Panel(
        "Job and delivery",
        "s",
        '{__name__=~"music_kpis_(job|delivery)_seconds", lake=~"$lake"}',
        "{{__name__}}",
    ),
    Panel("Dates computed", "short", f"music_kpis_dirty_dates{LAKE}", "dates"),
    Panel("Items in DynamoDB", "short", f"sum by (outcome) (music_kpis_items{LAKE})", "{{outcome}}"),
    Panel("Throttled requests", "short", f"sum by (table) (music_kpis_throttled_requests{LAKE})", "{{table}}"),
    Panel("Items that DynamoDB can't hold", "short", f"music_kpis_undeliverable_items{LAKE}", "items"),
    Panel("Cost of the job", "currencyUSD", f"music_kpis_cost_usd{LAKE}", "cost"),
    Panel("vCPU hours", "h", f"sum by (source) (music_kpis_vcpu_hours{LAKE})", "{{source}}"),
    Panel("Memory, GB hours", "h", f"sum by (source) (music_kpis_memory_gb_hours{LAKE})", "{{source}}"),
)


def dashboard() -> str:
    """Return the dashboard as JSON."""
    made = (
        Dashboard("Music streaming KPIs")
        .uid("music-streaming-kpis")
        .tags(["music-streaming"])
        .time("now-14d", "now")
        .refresh("5m")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("lake")
            .label("Lake")
            .datasource(SOURCE)
            .query("label_values(music_kpis_run_succeeded, lake)")
            .include_all(True)
            .multi(True)
        )
    )
    for panel in PANELS:
        query = Dataquery().ref_id("A").expr(panel.query).datasource(SOURCE)
        kind = TimeSeries() if panel.legend else Stat()
        made = made.with_panel(
            kind.title(panel.title)
            .unit(panel.unit)
            .datasource(SOURCE)
            .span(8 if panel.legend else 6)
            .height(7 if panel.legend else 4)
            .with_target(query.legend_format(panel.legend) if panel.legend else query)
        )
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def main() -> None:
    """Write the file."""
    PATH.write_text(dashboard(), "utf-8")


if __name__ == "__main__":
    main()
