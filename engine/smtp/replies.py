"""What the protocol core answers by itself, in one place.  None of it says more than a client needs to know."""

from __future__ import annotations

from engine.mail.reply import Reply

RESET = b"250 2.0.0 Reset\r\n"
NOOP = b"250 2.0.0 Ok\r\n"
VRFY = b"252 2.5.0 Cannot VRFY user, but will accept message and attempt delivery\r\n"
HELP = b"214 2.0.0 See RFC 5321: HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\r\n"
UNKNOWN = b"500 5.5.1 Command not recognized\r\n"
NOT_IMPLEMENTED = b"502 5.5.1 Command not implemented\r\n"
TOO_LONG = b"500 5.5.2 Line too long\r\n"
BARE_IN_COMMAND = b"521 5.5.2 Bare CR or LF in a command; lines end with CRLF\r\n"
BARE_IN_BODY = Reply(550, ("5.6.0 Bare CR or LF in the message; lines end with CRLF",))
NO_ARGUMENT = b"501 5.5.4 Command takes no argument\r\n"
WANTS_ARGUMENT = b"501 5.5.4 Command wants an argument\r\n"
BAD_HELLO = b"501 5.5.4 Syntax: HELO or EHLO, then a host name or address literal\r\n"
HELLO_FIRST = b"503 5.5.1 Send HELO or EHLO first\r\n"
NESTED_MAIL = b"503 5.5.1 Sender already given\r\n"
MAIL_FIRST = b"503 5.5.1 Send MAIL first\r\n"
NO_RECIPIENTS = b"554 5.5.1 No valid recipients\r\n"
TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients\r\n"
TOO_MANY_FOR_MESSAGE = b"554 5.5.3 Too many recipients, the message is refused\r\n"
TOO_BIG = Reply(552, ("5.3.4 Message is over the size limit",))
TOO_BIG_BYTES = TOO_BIG.encode()
BAD_CHUNK = b"521 5.5.4 Syntax: BDAT size [LAST]; what follows could not be told from commands\r\n"
CHUNK_TAKEN = b"250 2.0.0 Chunk taken\r\n"
CHUNKS_BEGUN = b"503 5.5.1 The message has begun with BDAT\r\n"
BINARY_BY_DATA = b"503 5.5.1 BODY=BINARYMIME comes by BDAT\r\n"
TOO_MANY_ERRORS = b"421 4.7.0 Too many errors\r\n"
NO_AUTH_NOW = b"503 5.5.1 No AUTH within a transaction\r\n"
READY_FOR_TLS = b"220 2.0.0 Ready to start TLS\r\n"
NO_TLS_NOW = b"454 4.7.0 TLS not available, try again later\r\n"
IN_TLS = b"503 5.5.1 TLS is in use already\r\n"
BEHIND_STARTTLS = b"521 5.5.1 Nothing may follow STARTTLS before the TLS handshake\r\n"
TOO_MANY_COMMANDS = b"421 4.7.0 Too many commands without mail\r\n"
