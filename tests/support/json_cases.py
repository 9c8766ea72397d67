"""JSON documents that a parser must refuse (``n_``), must take (``y_``), or may do either with (``i_``).

Owns: our own corpus, generated rule by rule from RFC 8259, each case with an id that says what is odd about it.
Invariant: a case keeps its verdict in every form of :func:`forms`; ``test_json_cases.py`` proves it with an oracle.
Limits of the machine are no rule of the grammar: what is only deep, long or large is an ``i_``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["n", "y", "i"]


@dataclass(frozen=True, slots=True)
class Case:
    """One document. ``rule`` is the section of RFC 8259 that it is about."""

    id: str
    rule: str
    document: bytes

    @property
    def verdict(self) -> str:
        return self.id[0]


_REQUEST: Final = b'"model":"m","messages":[{"role":"user","content":"hi"}]'


def forms(case: Case) -> dict[str, bytes]:
    """The document alone, and as a part of a chat request that is otherwise valid."""
    return {"bare": case.document, **wrapped(case.document)}


def wrapped(document: bytes) -> dict[str, bytes]:
    """``document`` as the value of an unknown field: last, first, in an array, in an object."""
    return {
        "value": b'{%b,"x_extra":%b}' % (_REQUEST, document),
        "first": b'{"x_extra":%b,%b}' % (document, _REQUEST),
        "element": b'{%b,"x_extra":[0,%b]}' % (_REQUEST, document),
        "member": b'{"x_extra":{"k":%b},%b}' % (document, _REQUEST),
    }


def _cases(verdict: Verdict, rule: str, topic: str, documents: Iterable[tuple[str, str | bytes]]) -> Iterator[Case]:
    for name, document in documents:
        yield Case(f"{verdict}_{topic}_{name}", rule, document.encode() if isinstance(document, str) else document)


def _numbered(documents: str) -> Iterator[tuple[str, str]]:
    """One document per word, named by its place and by what of it can stand in an id."""
    for place, document in enumerate(documents.split()):
        yield f"{place:02}_{''.join(c if c.isalnum() and c.isascii() else '-' for c in document)}", document


# Invalid


def _invalid_literals() -> Iterator[Case]:
    words = "True TRUE tRue tru t fals False f nul Null NULL n nulll null0 truefalse nil None undefined yes on "
    words += "NaN nan -NaN +NaN Infinity -Infinity +Infinity inf -inf"
    yield from _cases("n", "3", "literal", _numbered(words))


def _invalid_numbers() -> Iterator[Case]:
    signs = "+1 +0.5 ++1 --1 -+1 +-1 - + -a -. 1- 1-1 1+1"
    zeros = "00 01 -00 -01 007 012.5 00.1 -012e1"
    fractions = ". .5 -.5 1. -1. 0. 1.e1 0.e1 1..2 1.2.3 1.-2 1.+2 .e1 1.a"
    exponents = "e1 E 1e 1E 1e+ 1e- -1e 0e 0.5e 1ee2 1e1.5 1e+-1 1e1e1 1e0x1 1ea"
    bases = "0x1 0xFF 0X1f 0b1 0o7 1h 1_000 1'000 1,000 1f 1L 1n 1.0d 1% $1 1/2 1a 12px"
    foreign = "\N{FULLWIDTH DIGIT ONE} 1\N{FULLWIDTH DIGIT TWO} \N{ARABIC-INDIC DIGIT THREE} 1\N{SUPERSCRIPT TWO} "
    foreign += "\N{MINUS SIGN}1 \N{INFINITY} \N{VULGAR FRACTION ONE HALF}"
    for topic, words in (
        ("sign", signs),
        ("leading-zero", zeros),
        ("fraction", fractions),
        ("exponent", exponents),
        ("base", bases),
        ("foreign-digit", foreign),
    ):
        yield from _cases("n", "6", f"number_{topic}", _numbered(words))
    spaced = ["- 1", "1 000", "1 .5", "1. 5", "1 e1", "1e 1"]
    yield from _cases("n", "6", "number_space", [(f"{place:02}", number) for place, number in enumerate(spaced)])


def _invalid_strings() -> Iterator[Case]:
    unended = [("quote", '"'), ("text", '"abc'), ("backslash", '"abc\\'), ("escaped-quote", '"abc\\"'), ("in-escape", '"\\u12')]
    yield from _cases("n", "7", "string_unended", unended)
    # The eight letters that may follow a backslash, and u, are not among these.
    for letter in "a0'vxeU8z *\N{LATIN SMALL LETTER E WITH ACUTE}\n\t":
        yield from _cases("n", "7", "string_escape", [(f"{ord(letter):02x}", f'"\\{letter}"')])
    digits = ["", "1", "12", "123", "12G4", "G123", " 123", "+123", "-123", "0x41", "{1F600}", "12 4", "\uff11123"]
    yield from _cases("n", "7", "string_hex", [(f"{n:02}", f'"\\u{some}"') for n, some in enumerate(digits)])
    yield from _cases("n", "7", "string_hex", [("second-of-pair", '"\\uD83D\\u"'), ("second-short", '"\\uD83D\\uDE0"')])
    yield from _cases("n", "7", "string_control", [(f"{value:02x}", b'"a%cb"' % value) for value in range(32)])
    quotes = [
        ("single", "'a'"),
        ("backtick", "`a`"),
        ("curly", "\N{LEFT DOUBLE QUOTATION MARK}a\N{RIGHT DOUBLE QUOTATION MARK}"),
        ("none", "abc"),
        ("triple", '"""a"""'),
        ("escaped-outside", '\\"a\\"'),
        ("unicode-outside", '\\u0022a"'),
        ("opened-late", 'a"b"'),
        ("closed-early", '"a"b'),
        ("two", '"a" "b"'),
        ("joined", '"a"+"b"'),
        ("prefix-u", 'u"a"'),
        ("prefix-b", 'b"a"'),
        ("mixed", "\"a'"),
        ("doubled-inside", '"a""b"'),
    ]
    yield from _cases("n", "7", "string_quote", quotes)


def _invalid_arrays() -> Iterator[Case]:
    words = "[ ] [1 [1, [, [,] [,1] [1,] [1,,2] [,,] [1;2] [1:2] [[1] [1]] [1} {1] (1) [(1)] <1> [-] [* [...] [1,...] [][] "
    words += '[]{} [} ["a":1] ["a'
    yield from _cases("n", "5", "array", _numbered(words))
    spaced = [("no-comma", "[1 2]"), ("no-comma-arrays", "[[] []]"), ("line-end", "[1\n2]"), ("comma-space-end", "[1, ]")]
    yield from _cases("n", "5", "array", spaced)


def _invalid_objects() -> Iterator[Case]:
    words = (
        '{ } {"a" {"a": {"a":1 {"a":1, {"a":1,} {,} {,"a":1} {"a",1} {"a":} {:1} {:} {"a"} {"a","b"} {1} {[1]} {"a":1,,"b":2} '
        '{"a"::1} {"a":1:2} {"a"=1} {"a"=>1} {"a":1;"b":2} {"a":1] {"a":1}} {"a":[} {"a":{} {a:1} {1:1} {1.5:1} {null:1} '
        "{'a':1} {true:1} {[]:1} {{}:1} {'a':'b'} {$a:1} {\"a\":1,b:2} {\"a\":a} {\"a\":-} {{}} {\"a\":1,\"a\"} "
        '{"a":1,2} {*:1}'
    )
    yield from _cases("n", "4", "object", _numbered(words))
    spaced = [("no-colon", '{"a" 1}'), ("no-comma", '{"a":1 "b":2}'), ("line", '{"a":1\n"b":2}'), ("split-key", '{"a" "b":1}')]
    yield from _cases("n", "4", "object", spaced)


def _invalid_structure() -> Iterator[Case]:
    texts = [
        ("empty", ""),
        ("space", " "),
        ("blank", " \t\r\n"),
        ("two-numbers", "1 2"),
        ("two-objects", '{"a":1}{"b":2}'),
        ("two-objects-space", "{} {}"),
        ("two-lines", "null\nnull"),
        ("word-after", "[] x"),
        ("brace-after", "1}"),
        ("bracket-after", "1]"),
        ("comma-after", "1,"),
        ("comma-before", ",1"),
        ("comma", ","),
        ("colon", ":"),
        ("backslash", "\\"),
        ("pair", '"a":1'),
        ("comment-block", "/* a */ 1"),
        ("comment-inside", "[1 /* a */]"),
        ("comment-line", "// a\n1"),
        ("comment-hash", "# a\n1"),
        ("comment-after", "1 // a\n"),
        ("comment-html", "<!-- a --> 1"),
        ("xml", "<a/>"),
        ("yaml", "a: 1"),
        ("call", "f(1)"),
        ("assignment", "x=1"),
        ("statement", "1;"),
        ("spread", "...[1]"),
        ("regex", "/a/"),
        ("sum", "1 + 1"),
        ("record-separator", "\x1e1"),
        ("guard", ")]}'\n1"),
        ("at", "@"),
    ]
    yield from _cases("n", "2", "structure", texts)
    # Only space, tab, line feed and carriage return are white space.
    blanks = "\v\f\0\x1c\x7f\x85\xa0\N{ZERO WIDTH SPACE}\N{LINE SEPARATOR}\N{IDEOGRAPHIC SPACE}\N{WORD JOINER}"
    yield from _cases("n", "2", "space_before", [(f"{ord(blank):04x}", f"{blank}1") for blank in blanks])
    yield from _cases("n", "2", "space_inside", [(f"{ord(blank):04x}", f"[1,{blank}2]") for blank in blanks])
    stray = [b"\xff", b"\x80", b"[\xc3]", b"\xef\xbb1", b"1\xe9", b"{\xe9:1}"]
    yield from _cases("n", "8.1", "byte_outside_string", [(document.hex(), document) for document in stray])
    deep = [
        ("arrays", b"[" * 1000),
        ("arrays-many", b"[" * 100_000),
        ("objects", b'{"a":' * 1000),
        ("mixed", b'[{"":' * 500),
        ("closed-one-less", b"[" * 50 + b"]" * 49),
        ("closed-one-more", b"[" * 50 + b"]" * 51),
        ("closed-crosswise", b'[{"a":[' + b"}]]"),
    ]
    yield from _cases("n", "2", "nesting", deep)


# Valid


def _valid_scalars() -> Iterator[Case]:
    yield from _cases("y", "3", "literal", _numbered("true false null"))
    words = (
        "0 -0 1 -1 9 10 -10 123456789 4503599627370496 0.0 -0.0 0.5 -0.5 1.0 3.14159 0.1234567890123456 "
        "1e0 1E0 1e5 1E5 1e+5 1E+5 1e-5 1E-5 0e0 0E0 0e+0 "
        "-0e-0 1.5e3 -1.5E-3 1e00 1e05 1e-007 20e1 0.00000000000000000001 1.7976931348623157e308 5e-324"
    )
    yield from _cases("y", "6", "number", _numbered(words))


def _valid_strings() -> Iterator[Case]:
    yield from _cases("y", "7", "string_escape", [(f"{ord(c):02x}", f'"a\\{c}b"') for c in '"\\/bfnrt'])
    hexes = "0000 0001 001f 0022 005C 007f 0041 00e9 00E9 20ac abcd ABCD aBcD FFFE FFFF FEFF 2028"
    yield from _cases("y", "7", "string_hex", [(digits, f'"\\u{digits}"') for digits in hexes.split()])
    texts = [
        ("empty", '""'),
        ("one", '"a"'),
        ("space", '" "'),
        ("delete", '"\x7f"'),
        ("c1", '"\x80\x9f"'),
        ("nbsp", '"\xa0"'),
        ("latin", '"\N{LATIN SMALL LETTER E WITH ACUTE}"'),
        ("line-separators", '"\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"'),
        ("byte-order-mark-inside", '"\N{ZERO WIDTH NO-BREAK SPACE}"'),
        ("noncharacter", '"\uffff\ufdd0"'),
        ("last-code-point", '"\U0010ffff"'),
        ("emoji", '"\N{GRINNING FACE}"'),
        ("emoji-escaped", '"\\ud83d\\ude00"'),
        ("pair-upper", '"\\uD834\\uDD1E"'),
        ("right-to-left", '"\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}a"'),
        ("combining", '"e\N{COMBINING ACUTE ACCENT}"'),
        ("null-escaped", '"a\\u0000b"'),
        ("looks-like-comment", '"/* a */ // b"'),
        ("looks-like-structure", '"{[,:]}"'),
        ("escaped-backslashes", '"\\\\\\\\"'),
        ("quote-after-backslashes", '"\\\\\\""'),
        ("backslash-u-text", '"\\\\u0041"'),
        ("slash", '"a/b\\/c"'),
        ("long", '"' + "abcdefgh" * 1000 + '"'),
    ]
    yield from _cases("y", "7", "string", texts)


def _valid_structures() -> Iterator[Case]:
    texts = [
        ("array-empty", "[]"),
        ("array-one", "[1]"),
        ("array-mixed", '[null,true,0,"a",[],{}]'),
        ("array-nested", "[[[]],[[]]]"),
        ("array-of-nulls", "[null,null,null]"),
        ("array-long", "[" + "0," * 5000 + "0]"),
        ("object-empty", "{}"),
        ("object-one", '{"a":1}'),
        ("object-empty-key", '{"":0}'),
        ("object-same-key", '{"a":1,"a":2}'),
        ("object-same-member", '{"a":1,"a":1}'),
        ("object-same-key-escaped", '{"a":1,"\\u0061":2}'),
        ("object-null-key", '{"\\u0000":1}'),
        ("object-escaped-key", '{"\\"\\\\":1}'),
        ("object-unicode-key", '{"\N{GREEK SMALL LETTER PI}":3}'),
        ("object-proto-key", '{"__proto__":{},"constructor":1}'),
        ("object-nested", '{"a":{"b":{"c":{}}}}'),
        ("object-long-key", '{"' + "k" * 1000 + '":1}'),
        ("depth-arrays", "[" * 50 + "]" * 50),
        ("depth-objects", '{"a":' * 50 + "0" + "}" * 50),
    ]
    yield from _cases("y", "4-5", "structure", texts)
    spaces = [("space", " "), ("tab", "\t"), ("line-feed", "\n"), ("return", "\r"), ("all", " \t\r\n")]
    for name, space in spaces:
        tokens = ["", "{", '"a"', ":", "[", "1", ",", "null", "]", ",", '"b"', ":", "{", "}", "}", ""]
        yield from _cases("y", "2", f"space-{name}", [("everywhere", space.join(tokens)), ("around", f"{space}1{space}")])


# Either


def _either_numbers() -> Iterator[Case]:
    numbers = [
        ("overflow", "1e400"),
        ("overflow-negative", "-1e400"),
        ("underflow", "1e-400"),
        ("exponent-huge", "1e99999999999999999999"),
        ("exponent-huge-negative", "1e-99999999999999999999"),
        ("zero-exponent-huge", "0e99999999999999999999"),
        ("above-2-53", str(2**53 + 1)),
        ("2-63", str(2**63)),
        ("below-minus-2-63", str(-(2**63) - 1)),
        ("2-64", str(2**64)),
        ("digits-100", "1" * 100),
        ("digits-400", "9" * 400),
        ("digits-5000", "7" * 5000),
        ("fraction-5000", "0." + "3" * 5000),
        ("zeros-exponent", "1e" + "0" * 500 + "1"),
    ]
    yield from _cases("i", "6", "number", numbers)


def _either_strings() -> Iterator[Case]:
    lone = [
        ("high", '"\\ud800"'),
        ("low", '"\\udc00"'),
        ("reversed", '"\\udc00\\ud800"'),
        ("two-highs", '"\\ud800\\ud800"'),
        ("high-then-text", '"\\ud83dabc"'),
        ("high-then-escape", '"\\ud83d\\n"'),
        ("high-then-other", '"\\ud83d\\u0041"'),
        ("in-key", '{"\\ud800":1}'),
    ]
    yield from _cases("i", "8.2", "string_surrogate", lone)
    bad = {
        "ff": b"\xff",
        "fe": b"\xfe",
        "continuation": b"\x80",
        "two-short": b"\xc3",
        "three-short": b"\xe2\x82",
        "four-short": b"\xf0\x9f\x98",
        "overlong-slash-2": b"\xc0\xaf",
        "overlong-slash-3": b"\xe0\x80\xaf",
        "overlong-slash-4": b"\xf0\x80\x80\xaf",
        "overlong-quote": b"\xc0\xa2",
        "overlong-null": b"\xc0\x80",
        "surrogate-high": b"\xed\xa0\x80",
        "surrogate-pair": b"\xed\xa0\xbd\xed\xb8\x80",
        "beyond-last": b"\xf4\x90\x80\x80",
        "five-bytes": b"\xf8\x88\x80\x80\x80",
        "six-bytes": b"\xfc\x84\x80\x80\x80\x80",
        "latin-1": b"caf\xe9",
        "cut-then-text": b"\xe2\x82abc",
    }
    yield from _cases("i", "8.1", "string_utf-8", [(name, b'"a%bb"' % octets) for name, octets in bad.items()])
    yield from _cases("i", "8.1", "key_utf-8", [("ff", b'{"\xff":1}'), ("overlong", b'{"\xc0\xaf":1}')])


def _either_structures() -> Iterator[Case]:
    text = '{"a":"\N{LATIN SMALL LETTER E WITH ACUTE}"}'
    encodings = [(name, text.encode(name)) for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")]
    yield from _cases("i", "8.1", "encoding", encodings)
    deep = [(f"arrays-{depth}", "[" * depth + "]" * depth) for depth in (65, 128, 600, 5000)]
    deep += [(f"objects-{depth}", '{"a":' * depth + "0" + "}" * depth) for depth in (65, 600)]
    yield from _cases("i", "9", "nesting", deep)
    members = ",".join(f'"k{number}":{number}' for number in range(10_000))
    key, text = "k" * 100_000, "s" * 1_000_000
    large = [("members-10000", f"{{{members}}}"), ("key-100kB", f'{{"{key}":1}}'), ("string-1MB", f'"{text}"')]
    yield from _cases("i", "9", "size", large)


INVALID: Final[tuple[Case, ...]] = (
    *_invalid_literals(),
    *_invalid_numbers(),
    *_invalid_strings(),
    *_invalid_arrays(),
    *_invalid_objects(),
    *_invalid_structure(),
)
VALID: Final[tuple[Case, ...]] = (*_valid_scalars(), *_valid_strings(), *_valid_structures())
EITHER: Final[tuple[Case, ...]] = (*_either_numbers(), *_either_strings(), *_either_structures())


def oracle(document: bytes) -> bool:
    """Whether the standard library takes ``document``, once its three leniencies are taken away from it."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(document.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True
