"""Two ways to write all items of an export to DynamoDB, nothing read back: `python -m tests.bench.delivery_ways WAY …`.

boto3's way gets its items ready as Python values, which nobody has for nothing; ours begins with the export's files.
Prints seconds of wall clock and CPU, from the first item to the last answer.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from boto3.dynamodb.types import TypeDeserializer

from kpi_pipeline.aws import batch_client
from kpi_pipeline.batch_writer import BatchWriter, put_request
from kpi_pipeline.export_reader import Export, read_manifest, read_part
from kpi_pipeline.lake import Lake, open_lake
from kpi_pipeline.settings import load_settings


@dataclass
class Clock:
    """Runs from its making to `stop`."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)

    def stop(self) -> dict[str, float]:
        return {"seconds": time.monotonic() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def ours(lake: Lake, export: Export, url: str) -> dict[str, float]:
    """Our batch writer, part by part."""
    settings = load_settings().writer
    layouts = {layout.name: layout for layout in export.tables}
    clock = Clock()
    writer = BatchWriter(batch_client(url, settings.workers + 4), settings)
    for part in export.parts:
        items = read_part(lake, export, part)
        writer.write(put_request(layouts[table], one.item, one.line) for table, some in items.items() for one in some)
    return clock.stop()


def boto3_batch_writer(lake: Lake, export: Export, url: str) -> dict[str, float]:
    """A table resource's `batch_writer`, table by table."""
    read = TypeDeserializer().deserialize
    items: dict[str, list[dict[str, Any]]] = {layout.name: [] for layout in export.tables}
    for part in export.parts:
        for table, some in read_part(lake, export, part).items():
            items[table] += [{name: read(value) for name, value in one.item.items()} for one in some]
    clock = Clock()
    resource = boto3.resource("dynamodb", endpoint_url=url)
    for table, some in items.items():
        with resource.Table(table).batch_writer() as batch:
            for item in some:
                batch.put_item(Item=item)
    return clock.stop()


def main(way: str, folder: str, run_id: str, url: str) -> None:
    """Write one export one way."""
    lake = open_lake(str(Path(folder)))
    write = {"ours": ours, "boto3": boto3_batch_writer}[way]
    print(json.dumps(write(lake, read_manifest(lake, run_id), url)))


if __name__ == "__main__":
    main(*sys.argv[1:])
