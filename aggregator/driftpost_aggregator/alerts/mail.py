"""An e-mail over SMTP, encrypted unless the owner says otherwise."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate

from driftpost_aggregator.alerts.channels import Channel
from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.webhook import read_token
from driftpost_aggregator.errors import ConfigurationError


def send(channel: Channel, message: str, subject: str, text: str, now_ms: int) -> Answer:
    """Send one message to all recipients.

    Args:
        channel: of kind email.
        message: its id; a repetition carries the same Message-ID, by which mailboxes recognise it.
        subject: one line.
        text: the body.
        now_ms: Unix ms.
    """
    mail = EmailMessage()
    mail["From"] = channel.sender
    mail["To"] = ", ".join(channel.recipients)
    mail["Subject"] = subject
    mail["Date"] = formatdate(now_ms / 1000)
    mail["Message-ID"] = f"<{message}@{channel.sender.partition('@')[2]}>"
    # RFC 3834: keeps holiday notes and other robots from answering.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    try:
        password = (
            read_token("alerts.channels.password_file", channel.password_file)
            if channel.username and channel.password_file is not None
            else ""
        )
        context = ssl.create_default_context(cafile=None if channel.ca is None else str(channel.ca))
        with _connected(channel, context) as server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.username:
                server.login(channel.username, password)
            refused = server.send_message(mail)
    except ConfigurationError as error:
        return Answer(None, str(error))
    except smtplib.SMTPAuthenticationError as error:
        # The server's words may repeat what was sent.
        return Answer(None, f"the mail server does not let {channel.username} in ({error.smtp_code})")
    except smtplib.SMTPRecipientsRefused as error:
        return Answer(None, f"the mail server refuses {', '.join(sorted(error.recipients))}")
    except smtplib.SMTPResponseException as error:
        return Answer(None, f"the mail server says {error.smtp_code}: {_text(error.smtp_error)}")
    except (smtplib.SMTPException, OSError, ValueError) as error:
        return Answer(None, f"{type(error).__name__}: {error}")
    if refused:
        return Answer(250, "", None)
    return Answer(200, "")


def _connected(channel: Channel, context: ssl.SSLContext) -> smtplib.SMTP:
    if channel.security == "tls":
        return smtplib.SMTP_SSL(channel.host, channel.port, timeout=channel.timeout_s, context=context)
    return smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_s)


def _text(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:200]
