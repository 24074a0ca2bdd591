import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from kpi_pipeline.alerts import failure_alert as alerts
from kpi_pipeline.alerts.failure_alert import Alert, AlertError, SmtpServer, one_line, send_alert
from kpi_pipeline.pipeline_settings import PipelineSettings, load_pipeline_settings
from tools.dynamodb_local import free_port

ALERT = Alert("Läuft nicht\nund mehr", "Zeile eins\nZeile zwei: streams/ü.csv")


class Sink:
    def __init__(self) -> None:
        self.envelopes: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        await asyncio.sleep(0)
        self.envelopes.append(envelope)
        return self.answer


@pytest.fixture
def sink() -> Iterator[tuple[Sink, SmtpServer]]:
    handler = Sink()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield handler, SmtpServer("127.0.0.1", controller.port)
    controller.stop()


def settings_with(**values: str) -> PipelineSettings:
    needed = {"bucket_name": "b-1", "emr_application_id": "a", "execution_role_arn": "arn:aws:iam::123456789012:role/x"}
    return load_pipeline_settings({**needed, **values}.get)


def test_an_email_arrives_at_all_recipients(sink: tuple[Sink, SmtpServer]) -> None:
    handler, server = sink
    assert send_alert(settings_with(alert_emails="a@example.com,b@example.com"), server, ALERT) == ["e-mail"]
    (envelope,) = handler.envelopes
    assert envelope.rcpt_tos == ["a@example.com", "b@example.com"]
    from email import message_from_bytes, policy

    message = message_from_bytes(envelope.content, policy=policy.default)
    assert message["Subject"] == "Läuft nicht und mehr"
    assert message.get_content().split() == ALERT.text.split()


def test_no_channel_set_is_no_error() -> None:
    assert send_alert(settings_with(), None, ALERT) == []


def test_when_no_channel_takes_it_that_is_an_error(sink: tuple[Sink, SmtpServer]) -> None:
    handler, server = sink
    handler.answer = "554 no"
    with pytest.raises(AlertError, match="e-mail"):
        send_alert(settings_with(alert_emails="a@example.com"), server, ALERT)


def test_one_channel_that_fails_does_not_keep_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    class Works:
        def send(self, alert: Alert) -> None:
            sent.append(alert)

    class Fails:
        def send(self, alert: Alert) -> None:
            raise OSError(alert.subject)

    monkeypatch.setattr(alerts, "CHANNELS", {"bad": lambda *_: Fails(), "good": lambda *_: Works()})
    assert send_alert(settings_with(), None, ALERT) == ["good"]
    assert sent == [ALERT]


def test_subjects_have_one_line() -> None:
    assert one_line("a\r\nBcc: x\tb", 100) == "a Bcc: x b"
    assert len(one_line("x" * 500, 100)) == 100
