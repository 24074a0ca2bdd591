"""Ways to write all items of an export to DynamoDB, nothing read back: `python -m bench.delivery_ways WAY …`.

boto3's way gets its items ready as Python values, which nobody has for nothing; ours begins with the export's files, in
one process as `kpi_pipeline deliver` does, or in several as the tasks of the DAG do.
Prints seconds of wall clock and CPU, from the first item to the last answer.
"""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import boto3
from boto3.dynamodb.types import TypeDeserializer

from kpi_common.files import Folder, open_lake
from kpi_pipeline.aws import batch_client
from kpi_pipeline.dynamodb.batch_writer import BatchWriter, put_request
from kpi_pipeline.export.reader import Export, Part, read_export, read_part
from kpi_pipeline.settings import load_delivery_settings


@dataclass
class Clock:
    """Runs from its making to `stop`."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)

    def stop(self) -> dict[str, float]:
        return {"seconds": time.monotonic() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def ours(lake: Folder, export: Export, url: str) -> dict[str, float]:
    """Our batch writer, part by part."""
    clock = Clock()
    write_parts(lake, export, url, export.parts)
    return clock.stop()


def ours_in_two(lake: Folder, export: Export, url: str) -> dict[str, float]:
    """Our batch writer in two processes, which are there already when the time begins."""
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(time.sleep, [0.2, 0.2]))
        clock = Clock()
        each = list(pool.map(partial(timed_parts, lake, export, url), (export.parts[::2], export.parts[1::2])))
        total = clock.stop()
    return {"seconds": total["seconds"], "cpu_seconds": total["cpu_seconds"] + sum(each)}


def timed_parts(lake: Folder, export: Export, url: str, parts: Sequence[Part]) -> float:
    """Write parts and return the CPU seconds."""
    clock = Clock()
    write_parts(lake, export, url, parts)
    return clock.stop()["cpu_seconds"]


def write_parts(lake: Folder, export: Export, url: str, parts: Sequence[Part]) -> None:
    """Write parts with a writer of their own."""
    settings = load_delivery_settings().writer
    layouts = {layout.name: layout for layout in export.tables}
    writer = BatchWriter(batch_client(url, settings.workers + 4), settings)
    for part in parts:
        items = read_part(lake, export, part)
        writer.write(put_request(layouts[table], one) for table, some in items.items() for one in some)


def boto3_batch_writer(lake: Folder, export: Export, url: str) -> dict[str, float]:
    """A table resource's `batch_writer`, table by table."""
    read: Any = TypeDeserializer().deserialize
    items: dict[str, list[dict[str, Any]]] = {layout.name: [] for layout in export.tables}
    for part in export.parts:
        for table, exported in read_part(lake, export, part).items():
            items[table] += [{name: read(value) for name, value in one.items()} for one in exported]
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
    write = {"ours": ours, "ours-2": ours_in_two, "boto3": boto3_batch_writer}[way]
    print(json.dumps(write(lake, read_export(lake, run_id), url)))


if __name__ == "__main__":
    main(*sys.argv[1:])
