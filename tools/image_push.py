"""`./build.sh push`: tag the image that was built last, push it, and print the digest to pin the application to.

The tag is version and git commit, so it never names two images. The repository policy that lets EMR Serverless pull
(conf/aws/ecr-repository-policy.json) is filled in and laid beside the image; the commands that use it are printed.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tools.docker_engine import DockerError, docker, ensure_engine, labels_of, require_image
from tools.image import Built, latest
from tools.image_context import IMAGE_FOLDER
from tools.toolchain import ROOT, say

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[a-z0-9._/-]+)"
)
POLICY = ROOT / "conf" / "aws" / "ecr-repository-policy.json"


@dataclass(frozen=True)
class Repository:
    """Where to push to; account and region are those of an address of ECR, else empty."""

    uri: str
    registry: str
    name: str
    account: str = ""
    region: str = ""

    @classmethod
    def parse(cls, uri: str) -> Repository:
        """Read an address such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com/music-streaming-kpis.

        Raises:
            DockerError: it has a tag, or no registry.
        """
        registry, _, name = uri.partition("/")
        if not name or ":" in name or "@" in name or not re.search("[.:]", registry):
            raise DockerError(f"--repository {uri}: expected REGISTRY/NAME, without a tag")
        found = _ECR.fullmatch(uri)
        if found is None:
            return cls(uri, registry, name)
        return cls(uri, registry, name, found["account"], found["region"])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./build.sh push", description=__doc__)
    parser.add_argument("--repository", required=True, metavar="URI", help="…dkr.ecr.REGION.amazonaws.com/NAME")
    parser.add_argument("--dry-run", action="store_true", help="show each command, run none")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Push, or show how; return the exit code."""
    options = parse(arguments)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        ensure_engine()
        push(latest(), Repository.parse(options.repository), dry_run=options.dry_run)
    except (DockerError, BotoCoreError, ClientError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def push(built: Built, repository: Repository, *, dry_run: bool) -> None:
    """Tag and push one image and tell what to do next."""
    labels = labels_of(built.name)
    for problem in reasons_not_to_push(labels):
        if not dry_run:
            raise DockerError(problem)
        say(f"warning: {problem}")
    target = f"{repository.uri}:{tag_of(labels)}"
    if repository.region:
        log_in(repository, dry_run=dry_run)
    step(["docker", "tag", built.name, target], dry_run=dry_run)
    step(["docker", "push", "--quiet", target], dry_run=dry_run)
    show_next_steps(repository, "sha256:DIGEST" if dry_run else digest_of(target, repository), labels)


def reasons_not_to_push(labels: dict[str, str]) -> list[str]:
    """Return what is wrong with an image for EMR Serverless."""
    reasons = []
    if labels.get("music-streaming-kpis.base") != "emr":
        reasons.append("this image stands on the look-alike of the EMR base and won't run on EMR: ./build.sh image")
    elif "@sha256:" not in labels.get("org.opencontainers.image.base.name", ""):
        reasons.append("the base is not pinned by its digest: put that into docker/base.toml, then ./build.sh image")
    if labels.get("org.opencontainers.image.revision", "").endswith("-dirty"):
        reasons.append("this image was built from files that are not committed: commit, then ./build.sh image")
    return reasons


def tag_of(labels: dict[str, str]) -> str:
    """Return the tag: version and git commit."""
    commit, *dirty = labels["org.opencontainers.image.revision"].split("-")
    return "-".join([labels["org.opencontainers.image.version"], commit[:12], *dirty])


def log_in(repository: Repository, *, dry_run: bool) -> None:
    """Log in to ECR for twelve hours, with whatever credentials boto3 finds."""
    command = ["docker", "login", "--username", "AWS", "--password-stdin", repository.registry]
    print(f"$ aws ecr get-login-password --region {repository.region} | {shlex.join(command)}", flush=True)
    if dry_run:
        return
    import boto3

    client = boto3.session.Session(region_name=repository.region).client("ecr")
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    docker(*command[1:], stdin=base64.b64decode(token).decode("ascii").partition(":")[2])


def step(command: Sequence[str], *, dry_run: bool) -> None:
    """Show a command and run it."""
    print(f"$ {shlex.join(command)}", flush=True)
    if not dry_run and subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise DockerError(f"{' '.join(command[:2])} failed")


def digest_of(target: str, repository: Repository) -> str:
    """Return the digest by which the registry knows what was pushed."""
    for reference in require_image(target).get("RepoDigests") or []:
        name, _, digest = str(reference).partition("@")
        if name == repository.uri:
            return digest
    raise DockerError(f"the engine knows no digest of {target}")


def show_next_steps(repository: Repository, digest: str, labels: dict[str, str]) -> None:
    """Print the digest, and the commands that make use of it."""
    from kpi_pipeline.emr.request import as_submit_parameters, spark_properties

    image = f"{repository.uri}@{digest}"
    policy = IMAGE_FOLDER / "ecr-repository-policy.json"
    given = {"region": repository.region or "REGION", "account": repository.account or "ACCOUNT"}
    policy.write_text(string.Template(POLICY.read_text("utf-8")).substitute(given), "utf-8")
    region = ["--region", repository.region] if repository.region else []
    let_pull = ["aws", "ecr", "set-repository-policy", *region, "--repository-name", repository.name]
    let_pull += ["--policy-text", f"file://{policy.relative_to(ROOT)}"]
    create = [
        "aws",
        "emr-serverless",
        "create-application",
        *region,
        "--name",
        "music-streaming-kpis",
        "--type",
        "SPARK",
    ]
    create += ["--release-label", release_of(labels), "--architecture", labels["music-streaming-kpis.emr-architecture"]]
    create += ["--image-configuration", json.dumps({"imageUri": image})]
    print(f"\nimage to put into imageConfiguration:\n{image}")
    print(f"\nlet EMR Serverless pull it (once):\n{shlex.join(let_pull)}")
    print(f"\nan application that uses it:\n{shlex.join(create)}")
    print(f"\nsparkSubmitParameters of its jobs:\n{as_submit_parameters(spark_properties('emr'))}")


def release_of(labels: dict[str, str]) -> str:
    """Return the EMR release, as the name of the base has it."""
    found = re.search(r"emr-\d+\.\d+\.\d+", labels.get("org.opencontainers.image.base.name", ""))
    return found.group() if found else "emr-7.14.0"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
