"""An e-mail over SMTP, encrypted unless the owner says otherwise."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate

from driftpost_aggregator.alerts.channels import Channel
from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.webhook import read_token
from driftpost_aggregator.errors import ConfigurationError

# A mail server's greeting (RFC 5321, 4.2.3).
_READY = 220


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
    late = threading.Event()
    try:
        password = (
            read_token("alerts.channels.password_file", channel.password_file)
            if channel.username and channel.password_file is not None
            else ""
        )
        context = ssl.create_default_context(cafile=None if channel.ca is None else str(channel.ca))
        with _connected(channel, context, late) as server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.username:
                server.login(channel.username, password)
            refused = server.send_message(mail)
            # It has the mail: however it says goodbye, nobody shall get it again.
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
    except ConfigurationError as error:
        return Answer(None, str(error))
    except (smtplib.SMTPException, OSError, ValueError) as error:
        return Answer(
            None, f"no end within {channel.timeout_s:g} s" if late.is_set() else _why(error, channel)
        )
    if refused:
        return Answer(
            250, f"the mail server refuses {', '.join(sorted(refused))}, and took it for the others"
        )
    return Answer(200, "")


def _why(error: Exception, channel: Channel) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        # The server's words may repeat what was sent.
        return f"the mail server does not let {channel.username} in ({error.smtp_code})"
    if isinstance(error, UnicodeEncodeError):
        # Its own words would show the letter.
        return "the name, the password or an address holds a letter that the mail server does not take"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"the mail server refuses {', '.join(sorted(error.recipients))}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server says {error.smtp_code}: {_text(error.smtp_error)}"
    return f"{type(error).__name__}: {error}"


@contextmanager
def _connected(channel: Channel, context: ssl.SSLContext, late: threading.Event) -> Iterator[smtplib.SMTP]:
    """A connection that is cut when the exchange has taken its time, however slowly the server goes on.

    Args:
        channel: its server.
        context: of the encryption.
        late: set when it was cut.
    """
    timeout_s = channel.timeout_s
    if channel.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=timeout_s, context=context)
    else:
        server = smtplib.SMTP(timeout=timeout_s)
    over = threading.Event()

    def cut() -> None:
        wait_s = timeout_s
        # Again, should it not have been connected yet: a timeout of a socket begins anew with each byte.
        while not over.wait(wait_s):
            late.set()
            wait_s = 0.1
            if isinstance(server.sock, socket.socket):
                with suppress(OSError):
                    # Past the encryption, which another thread is using.
                    socket.socket.shutdown(server.sock, socket.SHUT_RDWR)

    watch = threading.Thread(target=cut, name="driftpost-mail-deadline", daemon=True)
    watch.start()
    try:
        # The name that the certificate must carry; `connect` alone does not set it.
        server._host = channel.host  # type: ignore[attr-defined]  # as its constructor does
        code, said = server.connect(channel.host, channel.port)
        if code != _READY:
            raise smtplib.SMTPConnectError(code, said)
        yield server
    finally:
        over.set()
        watch.join()
        server.close()


def _text(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:200]
