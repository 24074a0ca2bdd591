"""Alert e-mails give the password to nobody but a server with a good certificate: Airflow's hook, a real server."""

import json
import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dags"))

import alert_channels

from kpi_pipeline.alerts.messages import Alert
from kpi_pipeline.settings import AlertSettings

SETTINGS = AlertSettings(alert_emails=("team@example.com",))
ALERT = Alert("run_failed", "error", "subject", "text")
PASSWORD = "dont-tell-anybody"  # noqa: S105
STARTTLS = {"disable_ssl": True}
SSL = {"disable_tls": True}
PLAIN = {"disable_ssl": True, "disable_tls": True}


class Server(Controller):
    """Offers a login, with TLS from the beginning (`implicit`) or by STARTTLS; keeps logins and messages."""

    def __init__(self, certificate: Path, *, implicit: bool) -> None:
        self.logins: list[Any] = []
        self.messages: list[bytes] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        super().__init__(self, hostname="127.0.0.1", port=free_port(), ssl_context=self.context if implicit else None)

    def factory(self) -> SMTP:
        starttls = None if self.ssl_context else self.context
        return SMTP(self, tls_context=starttls, authenticator=self.authenticate, auth_require_tls=False)

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> AuthResult:
        self.logins.append(login)
        return AuthResult(success=True)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (the server's name)
        self.messages.append(envelope.content)
        return "250 OK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, bool], login: str | None = "user"
) -> Iterator[Server]:
    server = Server(certificate, implicit="disable_ssl" not in extra)
    server.start()
    connection = {"conn_type": "smtp", "host": "localhost", "port": server.port}
    connection |= {"login": login, "password": PASSWORD, "extra": {**extra, "retry_limit": 1, "timeout": 10}}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("extra", [STARTTLS, SSL], ids=["STARTTLS", "SSL"])
def test_a_certificate_that_nobody_vouches_for_gets_no_password(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, extra: dict[str, bool]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(certificate, monkeypatch, extra) as server:
        with pytest.raises(alert_channels.AlertError, match="CERTIFICATE_VERIFY_FAILED") as raised:
            alert_channels.send(SETTINGS, ALERT)
        assert (server.logins, server.messages) == ([], [])
    assert PASSWORD not in caplog.text + repr(raised.value)


@pytest.mark.parametrize("extra", [STARTTLS, SSL], ids=["STARTTLS", "SSL"])
def test_a_good_certificate_gets_the_login_and_the_alert(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, bool]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate, monkeypatch, extra) as server:
        assert alert_channels.send(SETTINGS, ALERT) == ["e-mail"]
        assert [login.password for login in server.logins] == [PASSWORD.encode()]
        assert len(server.messages) == 1


def test_a_login_needs_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(certificate, monkeypatch, PLAIN) as server:
        with pytest.raises(alert_channels.AlertError, match="smtp_default: a login needs TLS"):
            alert_channels.send(SETTINGS, ALERT)
        assert (server.logins, server.messages) == ([], [])
    with serving(certificate, monkeypatch, PLAIN, login=None) as server:
        assert alert_channels.send(SETTINGS, ALERT) == ["e-mail"]
        assert len(server.messages) == 1


def test_the_password_is_in_no_repr(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(certificate, monkeypatch, SSL):
        notifier = alert_channels.email(SETTINGS, ALERT)
        notifier.hook.smtp_connection = notifier.hook.get_connection("smtp_default")
        assert notifier.hook.smtp_password == PASSWORD
    for thing in (notifier, notifier.hook):
        assert PASSWORD not in repr(thing) + str(thing)
