"""What is pushed where, and what is not."""

import json
import string

import pytest

from tools import image_push
from tools.docker_engine import DockerError
from tools.image import Built
from tools.image_push import POLICY, Repository, push, reasons_not_to_push, tag_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
URI = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/music-streaming-kpis"
BASE = "public.ecr.aws/emr-serverless/spark/emr-7.14.0"
LABELS = {
    "org.opencontainers.image.version": "0.1.0",
    "org.opencontainers.image.revision": COMMIT,
    "org.opencontainers.image.base.name": f"{BASE}@sha256:{'0' * 64}",
    "music-streaming-kpis.base": "emr",
    "music-streaming-kpis.emr-architecture": "ARM64",
}
BUILT = Built("music-streaming-kpis:emr", "sha256:0", "base", "linux/arm64", "sbom")


def test_an_address_of_ecr_tells_account_and_region() -> None:
    found = Repository.parse(URI)
    assert (found.account, found.region, found.name) == ("123456789012", "eu-central-1", "team/music-streaming-kpis")
    assert Repository.parse("localhost:5000/kpis") == Repository("localhost:5000/kpis", "localhost:5000", "kpis")


@pytest.mark.parametrize("uri", ["kpis", f"{URI}:1", f"{URI}@sha256:0", "kpis/image"])
def test_an_address_with_a_tag_or_without_a_registry_is_refused(uri: str) -> None:
    with pytest.raises(DockerError, match="expected REGISTRY/NAME"):
        Repository.parse(uri)


def test_the_tag_is_version_and_commit() -> None:
    assert tag_of(LABELS) == "0.1.0-0123456789ab"
    assert tag_of(LABELS | {"org.opencontainers.image.revision": f"{COMMIT}-dirty"}) == "0.1.0-0123456789ab-dirty"


def test_the_look_alike_and_uncommitted_files_are_not_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reasons_not_to_push(LABELS) == []
    wrong = LABELS | {"music-streaming-kpis.base": "local", "org.opencontainers.image.revision": f"{COMMIT}-dirty"}
    assert len(reasons_not_to_push(wrong)) == 2
    (reason,) = reasons_not_to_push(LABELS | {"org.opencontainers.image.base.name": f"{BASE}:latest"})
    assert "not pinned by its digest" in reason
    monkeypatch.setattr(image_push, "labels_of", lambda _name: wrong)
    with pytest.raises(DockerError, match="look-alike"):
        push(BUILT, Repository.parse(URI), dry_run=False)


def test_a_dry_run_shows_each_command_and_runs_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_push, "labels_of", lambda _name: LABELS)
    monkeypatch.setenv("PATH", "")
    image_push.IMAGE_FOLDER.mkdir(parents=True, exist_ok=True)
    push(BUILT, Repository.parse(URI), dry_run=True)
    shown = capsys.readouterr().out
    assert f"$ docker push --quiet {URI}:0.1.0-0123456789ab\n" in shown
    assert "aws ecr get-login-password --region eu-central-1 | docker login" in shown
    assert f"\n{URI}@sha256:DIGEST\n" in shown
    assert "--release-label emr-7.14.0 --architecture ARM64" in shown
    assert "--conf spark.executorEnv.PYSPARK_PYTHON=/opt/music-streaming-kpis/bin/python" in shown


def test_only_emr_serverless_of_the_account_may_pull() -> None:
    text = string.Template(POLICY.read_text("utf-8")).substitute(region="eu-central-1", account="123456789012")
    (statement,) = json.loads(text)["Statement"]
    assert statement["Principal"] == {"Service": "emr-serverless.amazonaws.com"}
    assert set(statement["Action"]) == {"ecr:BatchGetImage", "ecr:DescribeImages", "ecr:GetDownloadUrlForLayer"}
    source = statement["Condition"]["ArnLike"]["aws:SourceArn"]
    assert source == "arn:aws:emr-serverless:eu-central-1:123456789012:/applications/*"
