"""`./build.sh deploy`: make or change what conf/aws/template.yaml describes, and print what to put into Airflow.

First without --image-uri: that makes the repository that `./build.sh push` needs, the bucket, the queue and the roles.
Then with the image's digest: that makes the EMR Serverless application too. Doing it again changes only what is new. It
deletes nothing but what the template no longer has.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tools.toolchain import ROOT, say

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

TEMPLATE = ROOT / "conf" / "aws" / "template.yaml"
# Output of the stack -> setting of the DAG
SETTINGS = {
    "BucketName": "bucket_name",
    "ApplicationId": "emr_application_id",
    "JobRoleArn": "execution_role_arn",
    "TopicArn": "alert_topic_arn",
    "FiguresLogGroup": "metrics_log_group",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="./build.sh deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--region", required=True)
    parser.add_argument("--stack-name", default="music-streaming-kpis", help="default: music-streaming-kpis")
    parser.add_argument("--image-uri", metavar="NAME@sha256:…", help="the image, as ./build.sh push prints it")
    parser.add_argument(
        "--parameter", metavar="NAME=VALUE", action="append", default=[], help="another parameter of the template"
    )
    parser.add_argument("--dry-run", action="store_true", help="show each call, make none")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Deploy, or show how; return the exit code."""
    options = parse(arguments)
    from botocore.exceptions import BotoCoreError, ClientError, WaiterError

    try:
        parameters = given_parameters(options)
        request = {
            "StackName": options.stack_name,
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": "application", "Value": "music-streaming-kpis"}],
        }
        show_call("deploy", options.region, request, parameters)
        if options.dry_run:
            return 0
        import boto3

        client = boto3.session.Session(region_name=options.region).client("cloudformation")
        deploy(client, request, parameters)
        show_outputs(outputs_of(client, options.stack_name))
    except (BotoCoreError, ClientError, WaiterError, ValueError) as error:
        say(f"error: {error}")
        return 1
    return 0


def given_parameters(options: argparse.Namespace) -> dict[str, str]:
    """Return the template's parameters that are given.

    Raises:
        ValueError: one is no `NAME=VALUE`.
    """
    parameters = {"ImageUri": options.image_uri} if options.image_uri else {}
    for assignment in options.parameter:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"--parameter {assignment}: expected NAME=VALUE")
        parameters[name] = value
    return parameters


def show_call(action: str, region: str, request: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
    """Print the call as the AWS command line has it."""
    print(f"$ aws cloudformation {action} --region {region} --stack-name {request['StackName']} \\")
    print(
        f"    --template-file {TEMPLATE.relative_to(ROOT)} --capabilities {' '.join(request['Capabilities'])}", end=""
    )
    overrides = " ".join(f"{name}={value}" for name, value in parameters.items())
    print(f" \\\n    --parameter-overrides {overrides}" if overrides else "", flush=True)


def deploy(client: CloudFormationClient, request: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
    """Make or change the stack and wait for it; parameters that are not given stay as they are."""
    from botocore.exceptions import ClientError

    body = TEMPLATE.read_text("utf-8")
    section = body.partition("\nParameters:\n")[2].partition("\nConditions:\n")[0]
    known = re.findall(r"^  (\w+):$", section, re.MULTILINE)
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"the template has no parameter {', '.join(unknown)}; it has: {', '.join(sorted(known))}")
    values: list[Any] = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    try:
        before = client.describe_stacks(StackName=request["StackName"])["Stacks"][0].get("Parameters", [])
    except ClientError:  # there is none yet
        client.create_stack(**request, TemplateBody=body, Parameters=values)
        client.get_waiter("stack_create_complete").wait(StackName=request["StackName"])
        return
    values += [parameter for parameter in before if parameter["ParameterKey"] in set(known) - set(parameters)]
    try:
        client.update_stack(**request, TemplateBody=body, Parameters=values)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise
        say("nothing to change")
        return
    client.get_waiter("stack_update_complete").wait(StackName=request["StackName"])


def outputs_of(client: CloudFormationClient, stack: str) -> dict[str, str]:
    """Return what the stack tells of itself."""
    outputs = client.describe_stacks(StackName=stack)["Stacks"][0].get("Outputs", [])
    return {str(output["OutputKey"]): str(output["OutputValue"]) for output in outputs}


def show_outputs(outputs: Mapping[str, str]) -> None:
    """Print what to do next, and the settings of the DAG."""
    if "ApplicationId" not in outputs:
        print("\nnow push the image, then deploy again with --image-uri:")
        print(f"./build.sh push --repository {outputs['RepositoryUri']}")
    settings = {name: outputs[output] for output, name in SETTINGS.items() if output in outputs}
    print(f"\nAirflow Variable music_streaming_pipeline:\n{json.dumps(settings, indent=1)}")
    print(f"\nenvironment of Airflow, to start on arrival:\nMUSIC_KPIS_DAG_QUEUE_URL={outputs['QueueUrl']}")
    named = ("DagPolicyArn", "DagJobPolicyArn", "DagRedshiftPolicyArn")
    policies = "\n".join(outputs[name] for name in named if name in outputs)
    if "RedshiftCopyRoleArn" in outputs:
        print(f"\nfor docs/redshift.md, the setting redshift_copy_role: {outputs['RedshiftCopyRoleArn']}")
    print(f"\npolicies to attach to the role of Airflow's workers:\n{policies}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
