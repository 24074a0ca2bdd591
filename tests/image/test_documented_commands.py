"""The commands of docs/image.md that run the application in the image."""

from pathlib import Path

from tests.image.conftest import Built
from tests.image.lake_content import TABLES, LakeContent
from tests.support.documented_commands import bash, runs


@runs("./build.sh run --docker", "--no-delivery", "--input", "DIR", "--lake", "LAKE")
def test_run_in_the_image(command: str, built: Built, tiny_source: Path, tmp_path: Path) -> None:  # noqa: ARG001
    bash(command, DIR=tiny_source, LAKE=tmp_path / "lake")
    assert all(LakeContent(tmp_path / "lake").rows(table) for table in TABLES)


@runs(
    "docker run --rm --read-only --tmpfs /tmp:exec --hostname localhost --network none "
    "--mount type=bind,source=$PWD/raw,target=/data/raw,readonly --mount type=bind,source=$PWD/lake,target=/data/lake "
    "music-streaming-kpis:local spark-submit --properties-file /opt/music-streaming-kpis/conf/spark/local.conf "
    "--driver-class-path '/usr/share/aws/delta/lib/*' local:///opt/music-streaming-kpis/main.py "
    "run --input /data/raw --lake /data/lake"
)
def test_bare_command(command: str, built: Built, tiny_source: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir(mode=0o777)
    lake.chmod(0o777)
    words = {"$PWD/raw": tiny_source, "$PWD/lake": lake, "music-streaming-kpis:local": built.name}
    bash(command, **words)
    assert all(LakeContent(lake).rows(table) for table in TABLES)
