"""What `spark-submit` is given in place of the application: it puts points around all that the application writes.

The application itself is not touched: its functions that reach the lake are wrapped from outside.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [entry for entry in sys.path if entry != HERE]

from kpi_common.files import LocalStorage  # noqa: E402
from kpi_common.s3_files import S3Storage  # noqa: E402
from spark_app import cli  # noqa: E402 (not before the path is right)
from spark_app.errors import StorageError  # noqa: E402
from spark_app.lake import lock  # noqa: E402
from spark_app.lake.delta_tables import Table  # noqa: E402
from spark_app.spark.kept_frames import KeptFrames  # noqa: E402
from spark_app.spark.session import build_session  # noqa: E402
from tests.faults.points import LostReply, Points  # noqa: E402

WRITES = ("write", "write_if", "rewrite_if", "delete_if", "delete_folder")


def name_of(uri: str, method: str, data: object = b"") -> str:
    """Name a file of the lake by its kind, whatever the run is called, and the state by the step that writes it."""
    parts = uri.split("/")
    last = parts[-1]
    if last == "state.json" and isinstance(data, bytes):
        return f"ops/state.json {json.loads(data)['step']}"
    if parts[-3:-1] == ["ops", "files"]:
        return "a shard of ops/files"
    if last == "lake.lock":
        return "give back the lake's lock" if method == "delete_if" else "take the lake's lock"
    if last == "_first_write":
        table = "/".join(parts[-3:-1])
        return f"{table} first write {'done' if method == 'delete_if' else 'begun'}"
    if method == "delete_folder":
        return "empty the export's folder"
    if last.startswith("part-"):
        return f"export {parts[-2]} {last.partition('.')[0]}"
    return {"manifest.json": "export manifest"}.get(last, last)


def wrap_storage(points: Points, kind: type[Any]) -> None:
    """Put points around every write of a store."""
    for method in WRITES:
        original = getattr(kind, method)

        @functools.wraps(original)
        def wrapped(self: Any, uri: str, *rest: Any, _original: Any = original, _method: str = method) -> Any:
            try:
                return points.around(name_of(uri, _method, *rest[:1]), lambda: _original(self, uri, *rest))
            except LostReply as error:
                raise StorageError(str(error)) from error

        setattr(kind, method, wrapped)


def wrap_renaming(points: Points) -> None:
    """A local file gets its name at the end: the point inside is right before."""
    rename = Path.replace

    def wrapped(self: Path, target: Any) -> Any:
        points.inside()
        return rename(self, target)

    Path.replace = wrapped  # type: ignore[method-assign]


def wrap_tables(points: Points) -> None:
    """Put points around every commit of a Delta table, and around the deletion of what no version needs any more."""
    replace = Table.replace

    def wrapped(self: Table, frame: Any, where: Any, metadata: dict[str, Any], *rest: Any, **more: Any) -> int:
        name = f"{'/'.join(self.uri.split('/')[-2:])} {metadata['step']}"
        points.reached(f"{name}: before")
        points.kill_at_first_data_file(self.uri, name)
        version = replace(self, frame, where, metadata, *rest, **more)
        points.reached(f"{name}: after")
        return version

    Table.replace = wrapped  # type: ignore[method-assign]
    delete = Table.delete_old_versions

    def wrapped_delete(self: Table, *arguments: Any, **more: Any) -> None:
        name = f"{'/'.join(self.uri.split('/')[-2:])} old versions"
        points.around(name, lambda: delete(self, *arguments, **more))

    Table.delete_old_versions = wrapped_delete  # type: ignore[method-assign]


def wrap_kept_frames(points: Points) -> None:
    """Put points around the frames that are kept while KPIs are computed."""
    keep = KeptFrames.keep
    KeptFrames.keep = lambda self, frame: points.around("keep a frame", lambda: keep(self, frame))  # type: ignore[method-assign]


def main() -> int:
    """Run the application with points in it, if any are planned."""
    points = Points.planned()
    if points is not None:
        for kind in (LocalStorage, S3Storage):
            wrap_storage(points, kind)
        wrap_renaming(points)
        wrap_tables(points)
        wrap_kept_frames(points)
    machine = os.environ.get("FAULTS_MACHINE")
    if machine:  # as if on a machine of its own, where nobody can see whether a process of another is alive
        lock._machine = lambda: machine
    if points is None or "orders" not in points.plan:
        return cli.main()
    spark = build_session(retention_days=30)
    with Path(points.plan["orders"]).open() as orders:
        for line in orders:  # one run after another, each with its own plan
            order = json.loads(line)
            points.begin(order["plan"])
            code = cli.main(order["arguments"], spark=spark)
            Path(order["plan"]["trace"]).with_suffix(".ended").write_text(str(code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
