"""Whom a lake has forgotten: keyed hashes of user ids in `ops/forgotten.json`, never the ids themselves.

An id is a number that could be guessed, so its hash is made with a key that is not in the lake (setting `forget_key`).
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from spark_app.config.secrets import read_secret
from spark_app.config.settings import Settings
from spark_app.errors import UsageError
from spark_app.lake.tables import Lake
from spark_app.run.state import GuardedFile

FORGOTTEN_FILE = "ops/forgotten.json"
_SHORTEST_KEY = 32
_BETWEEN_FIELDS = re.compile(r"[\s,;|\"']+")
USER_ID = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class Forgotten:
    """The forgotten users: `user_id in forgotten`."""

    key: bytes = field(default=b"", repr=False)
    hashes: frozenset[str] = frozenset()

    def __contains__(self, user_id: int) -> bool:
        return bool(self.hashes) and self._hash(str(user_id)) in self.hashes

    def are_named_in(self, text: str) -> bool:
        """Whether a field of a text is the id of one of them, however the fields are divided."""
        return any(int(word) in self for word in _BETWEEN_FIELDS.split(text) if USER_ID.fullmatch(word))

    def adding(self, user_ids: Iterable[int]) -> Forgotten:
        """Return them with more users."""
        return replace(self, hashes=self.hashes | {self._hash(str(user_id)) for user_id in user_ids})

    def write(self, lake: Lake) -> None:
        """Write the hashes into the lake.

        Raises:
            LockLostError: another run holds the lake by now.
        """
        file = GuardedFile(lake, FORGOTTEN_FILE)
        file.read()
        content = {"schema_version": 1, "key_check": self._hash("key"), "hashes": sorted(self.hashes)}
        file.write(json.dumps(content, indent=1).encode())

    def has_check(self, key_check: str) -> bool:
        """Whether the key is the one that made this check."""
        return hmac.compare_digest(self._hash("key"), key_check)

    def _hash(self, text: str) -> str:
        return hmac.digest(self.key, text.encode(), "sha256").hex()


def read_forgotten(lake: Lake, settings: Settings, *, with_key: bool = False) -> Forgotten:
    """Return whom a lake has forgotten; without a key where that is nobody, unless `with_key`.

    Raises:
        UsageError: the key is missing, too short or another one, or the file can't be read.
    """
    data, _ = lake.read_tagged(FORGOTTEN_FILE)
    if data is None and not with_key:
        return Forgotten()
    if not settings.forget_key:
        raise UsageError(
            "setting `forget_key` is empty; users are forgotten by keyed hashes of their ids: name a secret of Secrets "
            f"Manager, or a file by its whole path, with {_SHORTEST_KEY} random characters or more (docs/security.md)"
        )
    key = read_secret("forget_key", settings.forget_key).strip()
    if len(key) < _SHORTEST_KEY:
        raise UsageError(f"forget_key {settings.forget_key}: has {len(key)} bytes; at least {_SHORTEST_KEY} are needed")
    forgotten = Forgotten(key)
    if data is None:
        return forgotten
    where = f"{lake.uri}/{FORGOTTEN_FILE}"
    try:
        content = json.loads(data)
        key_check, hashes = str(content["key_check"]), frozenset(map(str, content["hashes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: can't be read; restore the file from a backup") from error
    if not forgotten.has_check(key_check):
        raise UsageError(f"forget_key {settings.forget_key}: is not the key that {where} was made with; name that one")
    return replace(forgotten, hashes=hashes)
