"""Where figures go: a CloudWatch log group (embedded metric format), a folder of text files, a push gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.errors import UsageError
from kpi_pipeline.emr.request import PIPELINE
from kpi_pipeline.files.arrivals import safe_name
from kpi_pipeline.monitoring.figures import HELP, Figure
from kpi_pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "music_kpis"
NAMESPACE = "MusicStreamingKPIs"


def to_cloudwatch(settings: PipelineSettings, run_id: str, figures: Sequence[Figure]) -> None:
    """Write figures to the log group, made if it is missing; CloudWatch makes metrics of them by itself."""
    if not settings.metrics_log_group:
        return
    logs, group, stream = new_client("logs"), settings.metrics_log_group, f"{PIPELINE}/{safe_name(run_id)}"
    with plain_aws_errors("CloudWatch"):
        for create, names in (
            (logs.create_log_group, {"logGroupName": group}),
            (logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            try:
                create(**names)
            except logs.exceptions.ResourceAlreadyExistsException:
                continue
        now = time.time_ns() // 1_000_000
        events = [{"timestamp": now, "message": json.dumps(one)} for one in embedded_metrics(settings, figures, now)]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def embedded_metrics(settings: PipelineSettings, figures: Sequence[Figure], now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield a document for each set of labels, as the specification of the embedded metric format says."""
    by_labels = sorted(figures, key=lambda figure: sorted(figure.labels.items()))
    for labels, found in groupby(by_labels, key=lambda figure: dict(figure.labels)):
        of_these = list(found)
        metrics = [{"Name": figure.name, "Unit": figure.unit} for figure in of_these]
        dimensions = {"lake": settings.lake, **labels}
        about = {"Namespace": NAMESPACE, "Dimensions": [list(dimensions)], "Metrics": metrics}
        values = {figure.name: figure.value for figure in of_these}
        yield {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [about]}, **dimensions, **values}


def to_prometheus(settings: PipelineSettings, figures: Sequence[Figure]) -> None:
    """Write a text file for each group of figures, or push all of them, or both.

    Raises:
        UsageError: the package prometheus-client is not installed.
    """
    if not settings.metrics_textfile_dir and not settings.metrics_pushgateway:
        return
    try:
        from prometheus_client import pushadd_to_gateway, write_to_textfile
    except ImportError as error:
        raise UsageError("metrics for Prometheus need the package prometheus-client in Airflow") from error
    if settings.metrics_textfile_dir:
        for group, found in groupby(sorted(figures, key=lambda figure: figure.group), key=lambda figure: figure.group):
            path = Path(settings.metrics_textfile_dir) / f"{PREFIX}_{group}.prom"
            write_to_textfile(str(path), _registry(settings, found))
    if settings.metrics_pushgateway:
        pushadd_to_gateway(settings.metrics_pushgateway, job=PIPELINE, registry=_registry(settings, figures))


def _registry(settings: PipelineSettings, figures: Iterable[Figure]) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, Gauge

    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for figure in figures:
        if figure.name not in gauges:
            names = ["lake", *figure.labels]
            gauges[figure.name] = Gauge(f"{PREFIX}_{figure.name}", HELP[figure.name], names, registry=registry)
        gauges[figure.name].labels(lake=settings.lake, **figure.labels).set(figure.value)
    return registry
