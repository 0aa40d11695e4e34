"""SSL contexts made from the configuration: few, at a start or when a file changes, never one for a connection."""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from engine.config.tls import VERSIONS, ClientTls, PemFile, ServerTls
from engine.errors import EngineError
from engine.tls.certificate import names
from engine.tls.files import Files
from engine.tls.pump import words
from engine.tls.sni import Choice

_VERSIONS: Final = dict(zip(VERSIONS, (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), strict=True))
_OFF: Final = dict(zip(VERSIONS, (ssl.OP_NO_TLSv1, ssl.OP_NO_TLSv1_1, ssl.OP_NO_TLSv1_2, ssl.OP_NO_TLSv1_3), strict=True))
_NOT_ANONYMOUS: Final = ":!aNULL:!eNULL"
_OLD: Final = ":@SECLEVEL=0"  # TLS 1.0 and 1.1 sign with SHA-1

Settings = TypeVar("Settings", ServerTls, ClientTls)


class TlsSetupError(EngineError):
    """A certificate, key, authority or list of ciphers cannot be used; the text says which, why, and what to do."""


class Contexts(Generic[Settings]):
    """One context for each of the settings that are used, remade when their files change."""

    def __init__(self, files: Files, make: Callable[[Settings, Files], ssl.SSLContext]) -> None:
        self._files = files
        self._make: Callable[[Settings, Files], ssl.SSLContext] = make
        self._made: dict[Settings, ssl.SSLContext] = {}

    def of(self, settings: Settings) -> ssl.SSLContext:
        """The context of *settings*.  TlsSetupError."""
        found = self._made.get(settings)
        if found is None:
            found = self._made[settings] = self._make(settings, self._files)
        return found

    def refresh(self) -> list[str]:
        """Once a second: what has changed on disk takes effect for connections to come.  One line for the log about each, good or bad."""
        if not self._made or not self._files.changed():
            return []
        said = []
        for settings in self._made:
            shown = ", ".join(settings.files)
            try:
                self._made[settings] = self._make(settings, self._files)
                said.append(f"{shown}: read anew")
            except TlsSetupError as error:
                said.append(f"{shown}: what was read before stays in use: {error}")
        return said


def server_context(settings: ServerTls, files: Files) -> ssl.SSLContext:
    """The context of a listening place, which chooses among its certificates by itself.  TlsSetupError."""
    every = []
    for pem in settings.certificates:
        context = _plain(ssl.PROTOCOL_TLS_SERVER, settings.versions, settings.ciphers)
        content = _load_chain(context, pem, files)
        if settings.ca_file:
            _load_authorities(context, settings.ca_file, files)
            context.verify_mode = ssl.CERT_OPTIONAL
        try:
            every.append((context, names(content)))
        except (ValueError, IndexError) as error:
            raise TlsSetupError(f"certificate {pem.path} cannot be used: {error}") from error
    if not every:
        raise TlsSetupError("there is no certificate")
    if len(every) > 1:
        every[0][0].sni_callback = Choice(every).callback
    return every[0][0]


def client_context(policy: ClientTls, files: Files) -> ssl.SSLContext:
    """The context of a destination.  With an authority the peer's certificate must be signed by it, and be for the peer's name.  TlsSetupError."""
    context = _plain(ssl.PROTOCOL_TLS_CLIENT, policy.versions, policy.ciphers)
    if policy.ca_file:
        _load_authorities(context, policy.ca_file, files)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if policy.certificate.path:
        _load_chain(context, policy.certificate, files)
    return context


def _plain(side: int, versions: tuple[str, ...], ciphers: str) -> ssl.SSLContext:
    if not versions:
        raise TlsSetupError("no version of TLS is allowed")
    context = ssl.SSLContext(side)
    with warnings.catch_warnings():  # Python would rather have one range; an operator may leave a gap in it
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = min(_VERSIONS[version] for version in versions)
        context.maximum_version = max(_VERSIONS[version] for version in versions)
        for version in VERSIONS:
            if version not in versions:
                context.options |= _OFF[version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    old = _OLD if "TLSv1" in versions or "TLSv1.1" in versions else ""
    try:
        context.set_ciphers(ciphers + _NOT_ANONYMOUS + old)
    except ssl.SSLError as error:
        raise TlsSetupError(f"ciphers {ciphers!r} cannot be used: OpenSSL knows none of them ({words(error)})") from error
    return context


def _content(path: str, files: Files) -> bytes:
    content = files.get(path)
    if content is None:
        raise TlsSetupError(f"{path} has not been read")
    return content


def _load_chain(context: ssl.SSLContext, pem: PemFile, files: Files) -> bytes:
    """Load key and certificates; returns the file's content.  OpenSSL takes files only: it gets a memory file, which nobody else can open."""
    content = _content(pem.path, files)
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=pem.password)
    except ssl.SSLError as error:
        why = words(error)
        hint = "key and certificate do not belong together" if "mismatch" in why else "a PEM file with the key and its certificate chain is wanted"
        raise TlsSetupError(f"certificate {pem.path} cannot be used: {why}; {hint}, and the key's password if it has one") from error
    finally:
        os.close(fd)
    return content


def _load_authorities(context: ssl.SSLContext, path: str, files: Files) -> None:
    try:
        context.load_verify_locations(cadata=_content(path, files).decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise TlsSetupError(f"ca-file {path} cannot be used: {words(error)}; a PEM file with certificates is wanted") from error
