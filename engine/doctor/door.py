"""Looks at one of our listeners as a stranger would: what it says, whether it relays, what it shows for TLS."""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from engine.doctor.dialog import Dialog, Failure, Reply, unverified
from engine.doctor.listeners import Admission, Certificate, Listener
from engine.doctor.stranger import Door, Trick

_CONNECTIONS = 4  # at most, for all tricks: a listener may close after some refusals
_STRANGER = "engine-doctor.invalid"


async def look_at(door: Door, timeout_s: float) -> Listener:
    """What a stranger meets at *door*.  No message is ever sent."""
    seen = Listener(door.where, door.role, door.client, door.host_name, "greeted", implicit_tls=door.immediate_tls, untried=door.untried)
    try:
        dialog = await _open(door, timeout_s)
    except Failure as failure:
        return seen._replace(state=failure.state, text=failure.text)
    try:
        greeting = await dialog.reply()
        seen = seen._replace(text=str(greeting), client=door.client or dialog.client)
        if greeting.code != 220:
            return seen
        seen = await _capabilities(door, dialog, seen, timeout_s)
    except Failure as failure:
        return seen._replace(state=failure.state, text=failure.text)
    finally:
        dialog.close()
    answers = await _try(door, timeout_s)
    untried = seen.untried or ("" if answers or not door.tricks else "the conversation broke off before a recipient was answered")
    admitted = tuple(Admission(trick.name, trick.recipient, str(reply)) for trick, reply in answers if reply.code // 100 == 2)
    put_off = [str(reply) for _, reply in answers if reply.code // 100 == 4]
    return seen._replace(tried=len(answers), admitted=admitted, put_off=tuple(put_off), untried=untried)


async def _open(door: Door, timeout_s: float) -> Dialog:
    context = unverified() if door.immediate_tls else None
    return await Dialog.open(door.address, door.port, door.client, timeout_s, context, door.host_name)


async def _capabilities(door: Door, dialog: Dialog, seen: Listener, timeout_s: float) -> Listener:
    extensions, mechanisms = _offered(await dialog.say(f"EHLO {_STRANGER}"))
    seen = seen._replace(extensions=extensions, mechanisms=mechanisms)
    if seen.implicit_tls:
        return seen._replace(mechanisms_tls=mechanisms, certificate=await _certificate(door, dialog, timeout_s))
    if "STARTTLS" not in extensions:
        return seen
    answer = await dialog.say("STARTTLS")
    if answer.code != 220:
        return seen._replace(tls_trouble=f"STARTTLS is answered {answer}")
    try:
        await dialog.start_tls(unverified(), door.host_name)
        _, mechanisms = _offered(await dialog.say(f"EHLO {_STRANGER}"))
    except Failure as failure:
        return seen._replace(tls_trouble=failure.text or failure.state)
    return seen._replace(mechanisms_tls=mechanisms, certificate=await _certificate(door, dialog, timeout_s))


def _offered(answer: Reply) -> tuple[frozenset[str], frozenset[str]]:
    """(keywords, AUTH mechanisms) of a reply to EHLO; none where it was refused."""
    if answer.code != 250:
        return frozenset(), frozenset()
    words = [line.upper().replace("=", " ", 1).split() for line in answer.lines[1:]]
    mechanisms = {mechanism for line in words if line[:1] == ["AUTH"] for mechanism in line[1:]}
    return frozenset(line[0] for line in words if line), frozenset(mechanisms)


async def _certificate(door: Door, dialog: Dialog, timeout_s: float) -> Certificate | None:
    shown = dialog.certificate
    if shown is None:
        return None
    try:
        read = x509.load_der_x509_certificate(shown)
        names = _names(read)
        begins_s, ends_s = read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()
    except ValueError:
        return Certificate((), 0.0, float("inf"), "it cannot be read")
    return Certificate(names, begins_s, ends_s, await _distrusted(door, timeout_s))


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternative = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        return tuple(str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    assert isinstance(alternative, x509.SubjectAlternativeName)
    addresses = alternative.get_values_for_type(x509.IPAddress)
    return (*alternative.get_values_for_type(x509.DNSName), *map(str, addresses))


async def _distrusted(door: Door, timeout_s: float) -> str:
    """Why a client that checks the certificate for the host's name would refuse it; "" if it would not."""
    context = ssl.create_default_context()
    try:
        if door.immediate_tls:
            dialog = await Dialog.open(door.address, door.port, door.client, timeout_s, context, door.host_name)
            dialog.close()
            return ""
        dialog = await Dialog.open(door.address, door.port, door.client, timeout_s)
        try:
            await dialog.reply()
            await dialog.say(f"EHLO {_STRANGER}")
            await dialog.say("STARTTLS")
            await dialog.start_tls(context, door.host_name)
        finally:
            dialog.close()
    except Failure as failure:
        return failure.text or failure.state
    return ""


async def _try(door: Door, timeout_s: float) -> list[tuple[Trick, Reply]]:
    """The tricks that were answered, and how."""
    left = list(door.tricks)
    answers: list[tuple[Trick, Reply]] = []
    for _ in range(_CONNECTIONS):
        if not left:
            break
        try:
            dialog = await _open(door, timeout_s)
        except Failure:
            break
        try:
            await dialog.reply()
            await dialog.say(f"EHLO {_STRANGER}")
            while left:
                trick = left.pop(0)
                answers.append((trick, await _envelope(dialog, trick)))
                await dialog.say("RSET")
            await dialog.quit()
        except Failure:
            continue
        finally:
            dialog.close()
    return answers


async def _envelope(dialog: Dialog, trick: Trick) -> Reply:
    """The reply to the recipient, or to the sender if that was refused."""
    reply = await dialog.say(f"MAIL FROM:<{trick.sender}>")
    return reply if reply.code // 100 != 2 else await dialog.say(f"RCPT TO:<{trick.recipient}>")
