"""`python -m api.openapi` writes the API's description, `api/openapi.json`, from its code."""

from __future__ import annotations

import json
from pathlib import Path

from api.handler import app
from api.routes import DESCRIPTION, TITLE, VERSION

FILE = Path(__file__).with_name("openapi.json")


def openapi() -> str:
    """Return the OpenAPI document as it is checked in."""
    text = app.get_openapi_json_schema(title=TITLE, version=VERSION, description=DESCRIPTION)
    document = json.loads(text)
    for path in document["paths"].values():
        responses = path["get"]["responses"]
        responses.pop("422", None)  # a wrong parameter is answered by 400, see `routes.build`
        responses.get("304", {}).pop("content", None)
    for unused in ("HTTPValidationError", "ResponseValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(openapi(), encoding="utf-8")
