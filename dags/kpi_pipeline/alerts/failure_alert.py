"""Alerts go out by every channel that is set: e-mail and SNS. Another channel is a class and a line in `CHANNELS`."""

from __future__ import annotations

import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Callable, Optional, Protocol

from kpi_common.aws import new_client, plain_aws_errors
from kpi_common.log import log, warn
from kpi_pipeline.errors import PipelineError
from kpi_pipeline.pipeline_settings import PipelineSettings

SMTP_TIMEOUT_S = 20
SUBJECT_LENGTH = 100  # what SNS takes
SNS_BYTES = 256 * 1024
DEFAULT_SMTP_PORT = 25


class AlertError(PipelineError):
    """No channel took the alert."""


@dataclass(frozen=True)
class Alert:
    """What happened, for people."""

    subject: str
    text: str


@dataclass(frozen=True)
class SmtpServer:
    """Where e-mails are handed in."""

    host: str
    port: int = DEFAULT_SMTP_PORT
    user: str = ""
    password: str = ""
    tls: str = ""  # "", "starttls" or "ssl"


class Channel(Protocol):
    """A way to reach people."""

    def send(self, alert: Alert) -> None:
        """Hand the alert over; any error means that it did not arrive."""


class Email:
    """E-mail by SMTP."""

    def __init__(self, server: SmtpServer, sender: str, recipients: tuple[str, ...]) -> None:
        self._server, self._sender, self._recipients = server, sender, recipients

    def send(self, alert: Alert) -> None:
        message = EmailMessage()
        message["Subject"] = one_line(alert.subject, 200)
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = formatdate(localtime=False)
        message["Message-ID"] = make_msgid(domain="music-streaming-kpis")
        message.set_content(alert.text)
        server = self._server
        new_connection = smtplib.SMTP_SSL if server.tls == "ssl" else smtplib.SMTP
        with new_connection(server.host, server.port, timeout=SMTP_TIMEOUT_S) as connection:
            if server.tls == "starttls":
                connection.starttls()
            if server.user:
                connection.login(server.user, server.password)
            connection.send_message(message)


class Topic:
    """An SNS topic."""

    def __init__(self, arn: str) -> None:
        self._arn = arn

    def send(self, alert: Alert) -> None:
        text = alert.text.encode()[: SNS_BYTES - 1024].decode(errors="ignore")
        subject = one_line(alert.subject, SUBJECT_LENGTH).encode("ascii", "replace").decode()
        with plain_aws_errors("SNS"):
            new_client("sns").publish(TopicArn=self._arn, Subject=subject, Message=text)


def email_channel(settings: PipelineSettings, smtp: SmtpServer | None) -> Channel | None:
    """Return the channel when there are recipients and a server."""
    if not settings.alert_emails:
        return None
    if smtp is None:
        warn("alert_emails is set, but there is no SMTP connection: no e-mail goes out")
        return None
    return Email(smtp, settings.alert_from, settings.alert_emails)


def topic_channel(settings: PipelineSettings, smtp: SmtpServer | None) -> Channel | None:  # noqa: ARG001 (all alike)
    """Return the channel when a topic is set."""
    return Topic(settings.alert_topic_arn) if settings.alert_topic_arn else None


NewChannel = Callable[[PipelineSettings, Optional[SmtpServer]], Optional[Channel]]
CHANNELS: dict[str, NewChannel] = {"e-mail": email_channel, "SNS": topic_channel}


def send_alert(settings: PipelineSettings, smtp: SmtpServer | None, alert: Alert) -> list[str]:
    """Send by all channels that are set and return their names; the failure of one does not keep the others back.

    Raises:
        AlertError: channels are set, and none took the alert.
    """
    sent, errors = [], []
    for name, new_channel in CHANNELS.items():
        channel = new_channel(settings, smtp)
        if channel is None:
            continue
        try:
            channel.send(alert)
        except (PipelineError, OSError, smtplib.SMTPException) as error:
            warn("alert not sent", channel=name, reason=str(error))
            errors.append(f"{name}: {error}")
        else:
            sent.append(name)
    if errors and not sent:
        raise AlertError(f"the alert '{alert.subject}' could not be sent: {'; '.join(errors)}")
    if not sent:
        warn("no alert channel is set (alert_emails, alert_topic_arn)", subject=alert.subject)
    log("alert", subject=alert.subject, sent_by=", ".join(sent))
    return sent


def one_line(text: str, length: int) -> str:
    """Return a text as a subject: no line breaks, not too long."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= length else f"{flat[: length - 3]}..."
