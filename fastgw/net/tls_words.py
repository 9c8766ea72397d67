"""What went wrong with TLS, in one line that an operator can act on.

Owns: the words for OpenSSL's codes (``X509_V_ERR_*`` of x509_vfy.h, reasons of sslerr.h) as the ``ssl`` module names them. Must
never: show anything of a key, or more of a peer's bytes than its certificate's own names.
"""

from __future__ import annotations

import os
import ssl
from typing import Final

_UNKNOWN_CA: Final = (
    "its certificate comes from a CA that is not trusted (a private CA needs its CA file), or comes without those between"
)
_VERDICTS: Final = {
    9: "its certificate is not valid yet (or a clock here or there is wrong)",
    10: "its certificate has expired (it has to be renewed there)",
    18: "its certificate is self-signed, and not among the trusted ones (a private one is trusted by its CA file)",
    19: "its certificate comes from a CA that is not trusted (a private CA needs its CA file)",
    20: _UNKNOWN_CA,
    21: _UNKNOWN_CA,
    23: "its certificate has been revoked",
    24: "one of the certificates in its chain is no CA's",
    26: "its certificate is for another purpose",
    62: "its certificate is for another name (server_name says which it is to have)",
    64: "its certificate is not for this address (server_name says which name it is to have)",
}
_REFUSES: Final = "it refuses the handshake: no cipher in common, or it wants a client certificate (cert_file)"
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "what answers does not speak TLS (http:// is for that)",
    "PACKET_LENGTH_TOO_LONG": "what answers does not speak TLS (http:// is for that)",
    "CALLBACK_FAILED": "it asks for a name that is no text",
    "HTTP_REQUEST": "HTTP without TLS",
    "UNSUPPORTED_PROTOCOL": "no version of TLS in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no version of TLS in common",
    "VERSION_TOO_LOW": "no version of TLS in common",
    "NO_SHARED_CIPHER": "no cipher in common",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _REFUSES,
    "ALERT_HANDSHAKE_FAILURE": _REFUSES,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client certificate (cert_file)",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the CA of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take our certificate",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it speaks none of the protocols that it was offered (protocol says which are)",
    "TLSV1_UNRECOGNIZED_NAME": "it has no certificate for this name",
    "UNEXPECTED_EOF_WHILE_READING": "closed within the TLS handshake",
}


def told(error: Exception) -> str:
    """Why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        verdict = _VERDICTS.get(error.verify_code)
        return f"TLS: {verdict or 'its certificate is not good: ' + error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return f"TLS: {_REASONS.get(reason) or reason.replace('_', ' ').lower() or 'the handshake failed'}"
    if isinstance(error, OSError):
        return (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    return f"TLS: {error}"
