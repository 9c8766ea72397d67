r"""The heads of a form: its ``Content-Type`` and the header lines of a part, in one strict grammar (RFC 7578, RFC 2046 §5.1).

Owns: what a boundary, a parameter, the name of a field and the name of a file may look like. Must never: repair, or guess
which of two readings was meant. Invariant: what is accepted here says the same to readers that know quoted strings and to
those that split at each ``;``, that unescape ``\"`` and that end there, that take the first of two and that take the last,
that decode names (``%6d``, ``=?utf-8?``, ``name*``) and that do not. What is not, is refused with a message that says what
to send instead; a message repeats nothing of the client's but tokens.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastgw.errors import GatewayError
from fastgw.late import late

# python-multipart, which reads for vLLM and SGLang, takes 8 lines of 4224 bytes; real clients send up to 4 short ones.
MAX_PART_HEAD_BYTES: Final = 4096
MAX_PART_HEADER_LINES: Final = 8
MAX_NAME_BYTES: Final = 128
# The fields that are read here; nothing else may look like one of them.
FIELDS: Final = ("model", "stream")

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FORM: Final = late(rb"(?i:multipart/form-data)(?=[; \t]|\Z)")
_FORM_DATA: Final = late(rb"form-data(?=;|\Z)")
_PARAMETER: Final = late(rb'; *+(%b)=(?:"([^"]*+)"|(%b))' % (_TOKEN, _TOKEN))
# RFC 2046's, without the blank: some readers strip it.
_BOUNDARY: Final = late(rb"[0-9A-Za-z'()+_,\-./:=?]{1,70}")
_LINE: Final = late(rb"([0-9A-Za-z-]{1,64}+): *+(.*+)", re.DOTALL)
_CONTROLS: Final = bytes((*range(32), 127))
# What Unicode calls the end of a line, in UTF-8, beside the control characters.
_LINE_ENDS: Final = ("\x85".encode(), "\u2028".encode(), "\u2029".encode())
# What some readers take off the ends of a name, decode or fold in it, is not in it.
_NAME: Final = late(rb"[0-9A-Za-z_][0-9A-Za-z_.:\[\]-]{0,%d}+" % (MAX_NAME_BYTES - 1))
# .NET writes a file's name a second time so (RFC 8187 §3.2), whatever RFC 7578 says: a file it is to everybody in any case.
_EXTENDED: Final = late(rb"(?i:utf-8)''(?:[0-9A-Za-z!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})*+")
_LENGTH: Final = late(rb"[0-9]{1,15}")
_LENGTH_LINE: Final = late(rb"(?i)(?:\A|\r\n)content-length: *+(?=[0-9])")
_MEDIA_TYPE: Final = late(rb"%b/%b *+(?:;.*)?" % (_TOKEN, _TOKEN))
_CHARSETS: Final = rb"(?i:utf-8|us-ascii|iso-8859-1)"
# (aiohttp takes TEXT/plain for no text.)
_PLAIN_TEXT: Final = late(rb'text/plain(?:; *+charset=(?:"(%b)"|(%b)))?' % (_CHARSETS, _CHARSETS))

_DISPOSITION: Final = b"content-disposition"
_CONTENT_FIELDS: Final = frozenset((_DISPOSITION, b"content-type", b"content-transfer-encoding", b"content-length"))
_ENCODINGS: Final = frozenset((b"7bit", b"8bit", b"binary"))


def invalid(message: str, param: str | None = None) -> GatewayError:
    return GatewayError("invalid_multipart", message, param=param)


class PartHead(NamedTuple):
    """What the head of a part says."""

    field: str  # one of FIELDS; "" = any other, or a file
    length: int  # its Content-Length; -1 = none
    length_span: tuple[int, int]  # where its digits begin and end in the head
    ascii: bool  # it names a charset that is UTF-8's equal in ASCII only


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that the ``Content-Type`` of a request names.

    :raises GatewayError: ``unsupported_media_type`` when it is not multipart/form-data; ``invalid_multipart`` when it names
        no legal boundary, or anything that readers understand differently.
    """
    if not _FORM().match(content_type):
        raise GatewayError("unsupported_media_type")
    if _has_control(content_type):
        raise invalid("The Content-Type has a control character: leave it out.")
    if not content_type.startswith(b"multipart/form-data"):
        raise invalid("Write `multipart/form-data` in lower case: not every engine knows it otherwise.")
    found = _parameters(content_type, 19, "Content-Type", (b"boundary", b"charset"))
    if found.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise invalid("Send the form in UTF-8: its Content-Type names another charset.")
    boundary = found.get(b"boundary")
    if boundary is None:
        raise invalid("The Content-Type names no boundary: send `multipart/form-data; boundary=...`.")
    if not _BOUNDARY().fullmatch(boundary):
        raise invalid("The boundary is malformed: use 1 to 70 letters, digits and dashes.")
    return boundary


def part_head(block: bytes) -> PartHead:
    """The head of a part: its lines, without the empty one at their end.

    :raises GatewayError: ``invalid_multipart``.
    """
    lines = block.split(b"\r\n", MAX_PART_HEADER_LINES)
    if len(lines) > MAX_PART_HEADER_LINES:
        raise invalid(f"A part has more than {MAX_PART_HEADER_LINES} header lines: send fewer.")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = _LINE().fullmatch(line)
        if match is None or _has_control(line):
            raise _malformed(line)
        name = match[1].lower()
        if name in fields:
            raise invalid(f"The part header {_shown(name)} is repeated: send it once.")
        if name not in _CONTENT_FIELDS and name.startswith(b"content-"):
            raise invalid(f"Leave the part header {_shown(name)} out (RFC 7578 §4.8).")
        if name != _DISPOSITION and not line.isascii():
            raise invalid(f"The part header {_shown(name)} is not ASCII: only the name of a file may be in UTF-8.")
        fields[name] = match[2]
    disposition = fields.get(_DISPOSITION)
    if disposition is None:
        raise invalid('A part has no Content-Disposition: send `form-data; name="..."`.')
    if fields.get(b"content-transfer-encoding", b"binary").lower() not in _ENCODINGS:
        raise invalid("Send parts as they are: a Content-Transfer-Encoding may only be 7bit, 8bit or binary.")
    field = _field(disposition)
    media_type = fields.get(b"content-type")
    ascii_only = media_type is not None and _for_ascii_only(media_type, field)
    length = fields.get(b"content-length")
    if length is None:
        return PartHead(field, -1, (0, 0), ascii_only)
    match = _LENGTH_LINE().search(block)
    if match is None or not _LENGTH().fullmatch(length):
        raise invalid("A part's Content-Length is malformed: leave it out.")
    return PartHead(field, int(length), (match.end(), match.end() + len(length)), ascii_only)


def _field(disposition: bytes) -> str:
    """Which of FIELDS a ``Content-Disposition`` names, ``""`` = none of them."""
    if not _FORM_DATA().match(disposition):
        raise invalid('A part\'s Content-Disposition must be `form-data; name="..."`.')
    found = _parameters(disposition, 9, "Content-Disposition", (b"name", b"filename", b"filename*"))
    name = found.get(b"name")
    if name is None:
        raise invalid('A part has no name: send `Content-Disposition: form-data; name="..."`.')
    if next(iter(found)) != b"name":
        raise invalid("Put `name` before `filename` in a part's Content-Disposition.")
    if not _NAME().fullmatch(name):
        raise invalid(f"The name of a part must be 1 to {MAX_NAME_BYTES} letters, digits or `_-.:[]`, as they are.")
    filename = found.get(b"filename")
    if filename is not None:
        _check_filename(filename)
    extended = found.get(b"filename*")
    misplaced = filename is None or next(reversed(found)) != b"filename*"
    if extended is not None and (misplaced or not _EXTENDED().fullmatch(extended)):
        raise invalid("Send the parameter `filename` of the Content-Disposition plain, without `*` (RFC 7578 §4.2).")
    lowered = name.lower().decode()
    if lowered == "_charset_":
        raise invalid("Leave the part `_charset_` out: the form is read as UTF-8.")
    like = lowered.partition("[")[0]
    if like not in FIELDS:
        return ""
    if name != like.encode():
        raise invalid(f"A part's name is almost `{like}`: name it so, or otherwise.", like)
    if filename is not None:
        raise invalid(f"The field {like} comes as a file: send it without a filename.", like)
    return like


def _check_filename(name: bytes) -> None:
    """Readers that split at each ``;``, or at whatever Unicode calls the end of a line, find nothing in it."""
    end = name.find(b";")
    if end >= 0 and b"=" in name[end:]:
        raise invalid("The name of a file has a `;` and then a `=`: rename it.")
    if name.isascii():
        return
    try:
        name.decode()
    except UnicodeDecodeError:
        raise invalid("The name of a file is not UTF-8: rename it.") from None
    if any(line_end in name for line_end in _LINE_ENDS):
        raise invalid("The name of a file has more than one line: rename it.")


def _for_ascii_only(media_type: bytes, field: str) -> bool:
    """Whether the ``Content-Type`` of a part asks for a charset that differs from UTF-8 outside ASCII."""
    if not _MEDIA_TYPE().fullmatch(media_type):
        raise invalid("A part's Content-Type is malformed: send `type/subtype`, or none.")
    if media_type[:9].lower() == b"multipart":
        raise invalid("A part is multipart itself: send each file as a part of its own.")
    if not field:
        return False
    match = _PLAIN_TEXT().fullmatch(media_type)
    if match is None:
        raise invalid(f"Send the field {field} as plain text in UTF-8, without a Content-Type.", field)
    return (match[1] or match[2] or b"utf-8").lower() != b"utf-8"


def _parameters(text: bytes, at: int, header: str, known: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """The parameters of ``text`` from ``at`` on, in their order."""
    found: dict[bytes, bytes] = {}
    while at < len(text):
        match = _PARAMETER().match(text, at)
        if match is None:
            raise invalid(f"The {header} is malformed: write each parameter as `; name=value` or `; name=\"value\"`.")
        name, quoted, plain = match.groups()
        if name not in known:
            raise _unknown(name, header, known)
        if name in found:
            raise invalid(f"The parameter {_shown(name)} of the {header} is repeated: send it once.")
        value = plain if quoted is None else quoted
        if value.endswith(b"\\"):
            raise invalid(f'The parameter {_shown(name)} of the {header} has a backslash before a `"`: send neither.')
        found[name] = value
        at = match.end()
    return found


def _unknown(name: bytes, header: str, known: tuple[bytes, ...]) -> GatewayError:
    plain = name.lower().partition(b"*")[0]
    if b"*" in name and plain in known:
        return invalid(f"Send the parameter {_shown(plain)} of the {header} plain, without `*` (RFC 7578 §4.2).")
    if plain in known:
        return invalid(f"Write the parameter {_shown(plain)} of the {header} in lower case.")
    return invalid(f"Leave the parameter {_shown(name)} out of the {header}.")


def _has_control(text: bytes) -> bool:
    return len(text.translate(None, _CONTROLS)) != len(text)  # a third of what a regular expression takes


def _malformed(line: bytes) -> GatewayError:
    """What is wrong with a line that is no header line."""
    if line[:1] in (b" ", b"\t"):
        return invalid("A part header goes on in a second line: send each in one line.")
    if _has_control(line):
        return invalid("A part header has a control character: end lines by CR LF, and use no other.")
    name, colon, _ = line.partition(b":")
    if colon and name.rstrip(b" ") != name:
        return invalid("A part header has a blank before its colon: leave it out.")
    return invalid("A part header is malformed: send `Name: value`, the name of letters, digits and dashes.")


def _shown(token: bytes) -> str:
    """A token of the client's, as a message may repeat it."""
    return f"`{token[:64].decode()}`"
