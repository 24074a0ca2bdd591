"""The same routes on this machine, for an ASGI server: `uvicorn api.local:app`."""

from aws_lambda_powertools.event_handler import HttpResolverLocal

from api.routes import build

app = build(HttpResolverLocal(enable_validation=True))
