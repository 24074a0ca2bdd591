"""Moto's server that notes each request as IAM sees it, and the rights of a template's roles, as IAM reads them.

Who asks is told by the access key. A request counts as the actions and resources that AWS's service authorization
reference names for it; those of S3 and KMS that S3 makes for itself are not seen.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.server import ThreadedMotoServer

ACCOUNT, REGION = "123456789012", "eu-central-1"
_SIGNED = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request")
_ARN = f"{REGION}:{ACCOUNT}"
_IN_TRANSACTION = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}


@dataclass(frozen=True, order=True)
class Call:
    """An action on a resource; `prefix` is that of a listing."""

    who: str
    action: str
    resource: str
    prefix: str = ""


@dataclass(frozen=True)
class Right:
    """An action that a statement allows on a pattern of resources, with these prefixes of listings (none: with all)."""

    sid: str
    action: str
    resource: str
    prefix: str = "*"

    def covers(self, call: Call) -> bool:
        """Whether it allows a call."""
        matches = fnmatchcase(call.action, self.action) and fnmatchcase(call.resource, self.resource)
        return matches and fnmatchcase(call.prefix, self.prefix)


@contextmanager
def recorded_aws() -> Iterator[tuple[str, set[Call]]]:
    """Run the server as long as the `with` block lasts; the value is its address and the calls so far."""
    server, calls = ThreadedMotoServer("127.0.0.1", 0, verbose=False), set[Call]()
    server.start()
    host, port = server.get_host_and_port()
    inner: Any = server._server
    answer = inner.app

    def noted(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        calls.update(calls_of(environ, body))
        return answer(environ, start_response)

    inner.app = noted
    try:
        yield f"http://{host}:{port}", calls
    finally:
        server.stop()


def calls_of(environ: Mapping[str, Any], body: bytes) -> list[Call]:
    """Return what a request does."""
    signed = _SIGNED.search(environ.get("HTTP_AUTHORIZATION", ""))
    if signed is None:
        return []
    who, service = signed[1], signed[2]
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    path = unquote(environ.get("RAW_URI", environ["PATH_INFO"]).partition("?")[0])
    if service == "s3":
        bucket, _, key = path.lstrip("/").partition("/")
        return [Call(who, *one) for one in _of_s3(environ, bucket, key, query, body)]
    if service == "emr-serverless":
        return [Call(who, *_of_emr(environ["REQUEST_METHOD"], path))]
    operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    if not operation:  # a service with forms in place of JSON
        form = parse_qs(body.decode())
        return [Call(who, f"{service}:{form['Action'][0]}", form.get("TopicArn", form.get("TargetArn", ["*"]))[0])]
    actions = _JSON_SERVICES[service](operation, json.loads(body or b"{}"))
    return [Call(who, f"{service}:{action}", resource) for action, resource in actions]


def _of_s3(
    environ: Mapping[str, Any], bucket: str, key: str, query: Mapping[str, list[str]], body: bytes
) -> Iterator[tuple[str, ...]]:
    method, arn = environ["REQUEST_METHOD"], f"arn:aws:s3:::{bucket}"
    if key:
        if source := environ.get("HTTP_X_AMZ_COPY_SOURCE"):
            yield "s3:GetObject", f"arn:aws:s3:::{unquote(source).lstrip('/')}"
        writing = "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
        of_method = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "DELETE": writing}
        yield of_method.get(method, "s3:PutObject"), f"{arn}/{key}"
    elif "delete" in query:
        yield from (("s3:DeleteObject", f"{arn}/{one}") for one in re.findall("<Key>(.*?)</Key>", body.decode()))
    elif method in {"GET", "HEAD"}:
        yield (
            "s3:ListBucketMultipartUploads" if "uploads" in query else "s3:ListBucket",
            arn,
            query.get("prefix", [""])[0],
        )
    else:
        yield f"s3:{method}Bucket", arn


def _of_emr(method: str, path: str) -> tuple[str, str]:
    parts = path.strip("/").split("/")
    arn = f"arn:aws:emr-serverless:{_ARN}:/{'/'.join(part for part in parts if part != 'start')}"
    if len(parts) == 4:
        return {"GET": "emr-serverless:GetJobRun", "DELETE": "emr-serverless:CancelJobRun"}[method], arn
    if parts[-1] == "jobruns":
        start = "emr-serverless:StartJobRun" if method == "POST" else "emr-serverless:ListJobRuns"
        return start, arn.removesuffix("/jobruns")
    return f"emr-serverless:{'StartApplication' if parts[-1] == 'start' else method + 'Application'}", arn


def _of_dynamodb(operation: str, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if operation == "TransactWriteItems":
        for item in request["TransactItems"]:
            yield from ((_IN_TRANSACTION[kind], _table(one["TableName"])) for kind, one in item.items())
    elif "RequestItems" in request:
        yield from ((operation, _table(name)) for name in request["RequestItems"])
    else:
        index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
        yield operation, _table(request.get("TableName", "")) + index


def _table(name: str) -> str:
    return f"arn:aws:dynamodb:{_ARN}:table/{name}"


def _of_glue(operation: str, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    database = request.get("DatabaseName") or request.get("Name") or request["DatabaseInput"]["Name"]
    yield operation, f"arn:aws:glue:{_ARN}:catalog"
    yield operation, f"arn:aws:glue:{_ARN}:database/{database}"
    if "Table" in operation:
        name = request.get("Name") or request["TableInput"]["Name"]
        yield operation, f"arn:aws:glue:{_ARN}:table/{database}/{name}"


def _of_logs(operation: str, request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stream = f"log-stream:{request['logStreamName']}" if operation == "PutLogEvents" else ""
    yield operation, f"arn:aws:logs:{_ARN}:log-group:{request['logGroupName']}:{stream}"  # a group's rights end in `:*`


_JSON_SERVICES: dict[str, Callable[[str, Mapping[str, Any]], Iterable[tuple[str, str]]]] = {
    "dynamodb": _of_dynamodb,
    "glue": _of_glue,
    "logs": _of_logs,
    "secretsmanager": lambda operation, request: [(operation, request.get("SecretId", request.get("Name", "*")))],
    "sqs": lambda operation, request: [(operation, str(request.get("QueueUrl", "*")).rpartition("/")[2])],
}


@dataclass(frozen=True)
class Names:
    """What stands for references of a template: `Bucket.Arn`, `AWS::Region`, `TablePrefix`."""

    known: Mapping[str, str] = field(default_factory=dict)

    def resolved(self, value: Any) -> Any:
        """Return a part of a template with references replaced; of conditions, what holds where they are met."""
        if isinstance(value, list):
            return [self.resolved(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "Ref" in value:
            return self.known[value["Ref"]]
        if "Fn::GetAtt" in value:
            return self.known[".".join(value["Fn::GetAtt"])]
        if "Fn::Sub" in value:
            return re.sub(r"\$\{([^}]+)\}", lambda found: self.known[found[1]], value["Fn::Sub"])
        return {name: self.resolved(one) for name, one in value.items()}


def rights_of(template: Mapping[str, Any], resources: Iterable[str], names: Names) -> list[Right]:
    """Return what the policies of these resources of a template allow, one right for each action on each resource."""
    rights = []
    for name in resources:
        given = template["Resources"][name]["Properties"]
        policies = [given, *given.get("Policies", [])]
        documents = [policy["PolicyDocument"] for policy in policies if "PolicyDocument" in policy]
        for statement in names.resolved([one for document in documents for one in document["Statement"]]):
            conditions = [one for one in statement.get("Condition", {}).values() if "s3:prefix" in one]
            prefixes = _listed(conditions[0]["s3:prefix"] if conditions else "*")
            rights += [
                Right(statement["Sid"], action, resource, prefix)
                for action in _listed(statement["Action"])
                for resource in _listed(statement["Resource"])
                for prefix in prefixes
            ]
    return rights


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
