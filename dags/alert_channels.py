"""How alerts reach people: by the notifiers of Airflow's providers, chosen by settings.

Another channel is a function that returns its notifier, and a line in `CHANNELS`. Texts are given to `notify` directly,
so nothing in them is rendered as a template.
"""

from __future__ import annotations

import functools
import html
import logging
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dag_support import AWS_CONN_ID, address_of, from_environment

from kpi_common.errors import AppError
from kpi_pipeline.alerts.messages import Alert
from kpi_pipeline.emr.request import PIPELINE
from kpi_pipeline.settings import AlertSettings

SMTP_CONN_ID = from_environment("SMTP_CONN_ID", "smtp_default")
SNS_CHARACTERS = 60_000  # of up to four bytes; SNS takes 256 KB
SLACK_HEADER, SLACK_CHARACTERS, SLACK_BLOCKS = 150, 3000, 49  # what Slack takes

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


def slack(settings: AlertSettings, alert: Alert) -> Any:
    """Return the notifier of a Slack webhook, or None where none is set. Plain text: nothing in it is Markdown."""
    if not settings.alert_slack_conn_id:
        return None
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    header = _plain(_for_slack(alert.subject)[:SLACK_HEADER])
    return SlackWebhookNotifier(
        slack_webhook_conn_id=settings.alert_slack_conn_id,
        text=_for_slack(alert.subject),
        blocks=[{"type": "header", "text": header}, *({"type": "section", "text": _plain(p)} for p in _parts(alert))],
        unfurl_links=False,
        unfurl_media=False,
    )


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _for_slack(text: str) -> str:
    """Escape what Slack takes for a link, a mention or a mark, as it asks for."""
    return html.escape(text, quote=False)


def _parts(alert: Alert) -> list[str]:
    """Return the text in parts that Slack takes, cut between lines."""
    parts = [""]
    for whole in alert.text.splitlines():
        line = _for_slack(whole) if len(_for_slack(whole)) < SLACK_CHARACTERS else _for_slack(whole[:500])
        if len(parts[-1]) + len(line) >= SLACK_CHARACTERS:
            parts.append("")
        parts[-1] += f"{line}\n"
    return parts[:SLACK_BLOCKS]


def pagerduty(settings: AlertSettings, alert: Alert) -> Any:
    """Return the notifier of PagerDuty, or None where none is set. Alerts of one kind are one incident."""
    if not settings.alert_pagerduty_conn_id:
        return None
    from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsHook
    from airflow.providers.pagerduty.notifications.pagerduty import PagerdutyNotifier
    from pagerduty import EventsApiV2Client

    class RegionalHook(PagerdutyEventsHook):
        """Sends to the connection's host, where it has one: the provider's own knows no region but the US."""

        def send_event(self, *, action: str, dedup_key: str, links: list[Any], **event: Any) -> str:
            client = EventsApiV2Client(self.integration_key)
            client.url = self.get_connection(settings.alert_pagerduty_conn_id).host or client.url
            payload = {name: event[name] for name in ("summary", "severity", "source", "custom_details")}
            return str(client.send_event(action, dedup_key, payload=payload, links=links))

    notifier = PagerdutyNotifier(
        summary=alert.subject,
        severity=alert.severity,
        source=PIPELINE,
        dedup_key=f"{PIPELINE} {alert.kind}",
        custom_details={"text": alert.text},
        links=[{"href": url, "text": "Airflow"} for url in [address_of(alert.dag_id, alert.run_id)] if url],
    )
    notifier.hook = RegionalHook(pagerduty_events_conn_id=settings.alert_pagerduty_conn_id)
    return notifier


CHANNELS: dict[str, Callable[[AlertSettings, Alert], Any]] = {
    "e-mail": email,
    "SNS": sns,
    "Slack": slack,
    "PagerDuty": pagerduty,
}


def send(settings: AlertSettings, alert: Alert | None) -> list[str]:
    """Send by all channels that are set and return their names; the failure of one does not keep the others back.

    Raises:
        AlertError: channels are set, and none took the alert.
    """
    sent, errors = [], []
    if alert is None:
        return sent
    if address := address_of(alert.dag_id, alert.run_id):
        alert = replace(alert, text=f"{alert.text}\n\nIn Airflow: {address}")
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
