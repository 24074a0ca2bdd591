"""How alerts reach people: by the notifiers of Airflow's providers, chosen by settings.

Another channel is a function that returns its notifier, and a line in `CHANNELS`. Texts are given to `notify` directly,
so nothing in them is rendered as a template.
"""

from __future__ import annotations

import functools
import html
import logging
import os
import ssl
from collections.abc import Callable
from typing import Any

from kpi_common.errors import AppError
from kpi_pipeline.alerts.messages import Alert
from kpi_pipeline.settings import AlertSettings

AWS_CONN_ID = os.environ.get("MUSIC_KPIS_DAG_AWS_CONN_ID") or "aws_conn"
SMTP_CONN_ID = os.environ.get("MUSIC_KPIS_DAG_SMTP_CONN_ID") or "smtp_default"
SNS_CHARACTERS = 60_000  # of up to four bytes; SNS takes 256 KB

logger = logging.getLogger(__name__)


class AlertError(AppError):
    """No channel took the alert."""


def email(settings: AlertSettings, alert: Alert) -> Any:
    """Return the notifier of e-mails, or None where nobody gets any."""
    if not settings.alert_emails:
        return None
    from airflow.providers.smtp.hooks.smtp import SmtpHook
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    class VerifiedSmtpHook(SmtpHook):
        """Gives a password only to a server with a good certificate (the provider's own does so from 3.0 on)."""

        def _build_client(self) -> Any:
            if self.smtp_user and not (self.use_ssl or self.smtp_starttls):
                raise AlertError(f"connection {SMTP_CONN_ID}: a login needs TLS: leave out disable_ssl or disable_tls")
            client = super()._build_client()
            client.starttls = functools.partial(client.starttls, context=ssl.create_default_context())
            return client

    notifier = SmtpNotifier(
        to=list(settings.alert_emails),
        from_email=settings.alert_from,
        subject=alert.subject,
        html_content=f"<pre>{html.escape(alert.text)}</pre>",
        smtp_conn_id=SMTP_CONN_ID,
    )
    notifier.hook = VerifiedSmtpHook(smtp_conn_id=SMTP_CONN_ID)
    return notifier


def sns(settings: AlertSettings, alert: Alert) -> Any:
    """Return the notifier of an SNS topic, or None where none is set."""
    if not settings.alert_topic_arn:
        return None
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    subject = alert.subject.encode("ascii", "replace").decode()
    text = alert.text[:SNS_CHARACTERS]
    return SnsNotifier(aws_conn_id=AWS_CONN_ID, target_arn=settings.alert_topic_arn, message=text, subject=subject)


CHANNELS: dict[str, Callable[[AlertSettings, Alert], Any]] = {"e-mail": email, "SNS": sns}


def send(settings: AlertSettings, alert: Alert | None) -> list[str]:
    """Send by all channels that are set and return their names; the failure of one does not keep the others back.

    Raises:
        AlertError: channels are set, and none took the alert.
    """
    sent, errors = [], []
    if alert is None:
        return sent
    for name, notifier_of in CHANNELS.items():
        try:
            notifier = notifier_of(settings, alert)
            if notifier is not None:
                notifier.notify({})
                sent.append(name)
        except Exception as error:  # noqa: BLE001 (each channel's library has errors of its own)
            logger.warning("alert not sent by %s: %s: %s", name, type(error).__name__, error)
            errors.append(f"{name}: {error}")
    if errors and not sent:
        raise AlertError(f"the alert '{alert.subject}' could not be sent: {'; '.join(errors)}")
    logger.warning("alert '%s' sent by: %s", alert.subject, ", ".join(sent) or "nothing, as no channel is set")
    return sent
