"""JSON without recursion and without objects: a strict grammar (RFC 8259, RFC 3629) over a pointer, for who looks into it.

Every function takes a text of ``n`` bytes at ``p``, of which only ``p[n]`` may be looked at as well: that byte must be one
that goes on with no JSON (the zero behind a bytes object, a line end). So a loop that stops at what it does not know needs no
other limit; white space alone may look like a line end. What reads several bytes at a time looks at the size first.
A negative result says: this is not what was asked for. These are inline: there is no module behind them.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from fastgw.accel.runs cimport Bytes, numbers_run, text_run

# Told of each key: its text is from ``start`` to the quote at ``end``, its value begins at ``value``. False = stop there.
ctypedef bint (*OnKey)(Bytes p, Py_ssize_t start, Py_ssize_t end, Py_ssize_t value, int kinds, void* told) noexcept nogil

cdef enum:
    STACK_WORDS = 8  # 512 levels: the most that can be configured
    LONG_TEXT = 64  # bytes of a string without an escape, before so many are looked at at once
    WORTH_A_RUN = 32  # and bytes that were read one piece after another since then; twice as many after each look in vain
    FAR = 1024  # but no more
    LONG_LIST = 8  # numbers of a list

# What a string was found to hold.
cdef enum:
    ESCAPED = 1
    WIDE = 2


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* What may go on with a number. */
    static const unsigned char fastgw_in_number[256] = {
        ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1,
        ['.'] = 1, ['e'] = 1, ['E'] = 1,
    };

    /* What a hexadecimal digit is worth; -1 = it is none. */
    static const signed char fastgw_hex_digits[256] = {
        [0 ... 255] = -1,
        ['0'] = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ['A'] = 10, 11, 12, 13, 14, 15, ['a'] = 10, 11, 12, 13, 14, 15,
    };

    /* The first byte from `i` on that does not simply go on with a string: a quote, a backslash, a control character, or
       one that is not ASCII; `n` when there is none before. */
    static CYTHON_INLINE Py_ssize_t fastgw_plain_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        if (n >= 16) {
            const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\'), blank = _mm_set1_epi8(' ');
            for (;;) {
                /* The last load ends with the text: what it reads again of what went before is shifted out. */
                int again = i + 16 <= n ? 0 : (int)(i + 16 - n);
                __m128i some;
                unsigned stops;
                if (again >= 16)
                    return n;
                some = _mm_loadu_si128((const __m128i *)(p + i - again));
                /* As signed bytes, all that are not ASCII come before the blank as well. */
                stops = (unsigned)_mm_movemask_epi8(_mm_or_si128(
                    _mm_or_si128(_mm_cmpeq_epi8(some, quote), _mm_cmpeq_epi8(some, slash)), _mm_cmplt_epi8(some, blank)));
                stops >>= again;
                if (stops)
                    return i + __builtin_ctz(stops);
                i += 16;
            }
        }
    #else
        while (i + 8 <= n) {
            const uint64_t ones = 0x0101010101010101ULL;
            uint64_t word, quote, slash;
            memcpy(&word, p + i, 8);
            quote = word ^ (ones * '"');
            slash = word ^ (ones * '\\\\');
            if (((word | (word - ones * ' ') | (quote - ones) | (slash - ones)) & (ones << 7)) != 0)
                break;
            i += 8;
        }
    #endif
        while (i < n && p[i] >= ' ' && p[i] < 0x80 && p[i] != '"' && p[i] != '\\\\')
            i++;
        return i;
    }

    /* The first quote or backslash from `i` on; `n` when there is none before. */
    static CYTHON_INLINE Py_ssize_t fastgw_bytes_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\');
        for (; i + 16 <= n; i += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + i));
            const unsigned stops = (unsigned)_mm_movemask_epi8(
                _mm_or_si128(_mm_cmpeq_epi8(some, quote), _mm_cmpeq_epi8(some, slash)));
            if (stops)
                return i + __builtin_ctz(stops);
        }
    #endif
        while (i < n && p[i] != '"' && p[i] != '\\\\')
            i++;
        return i;
    }

    /* Behind the ASCII that begins at `i`. */
    static CYTHON_INLINE Py_ssize_t fastgw_ascii_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
        for (; i + 8 <= n; i += 8) {
            uint64_t word;
            memcpy(&word, p + i, 8);
            if (word & 0x8080808080808080ULL)
                break;
        }
        while (i < n && p[i] < 0x80)
            i++;
        return i;
    }
    """
    const unsigned char in_number "fastgw_in_number"[256]
    Py_ssize_t plain_end "fastgw_plain_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil
    const signed char hex_digits "fastgw_hex_digits"[256]
    Py_ssize_t bytes_end "fastgw_bytes_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil
    Py_ssize_t ascii_end "fastgw_ascii_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil


cdef inline Py_ssize_t after_space(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where what is not white space begins."""
    while p[i] <= 32 and i < n and (p[i] == 32 or p[i] == 10 or p[i] == 13 or p[i] == 9):
        i += 1
    return i


cdef inline int _hex4(Bytes p) noexcept nogil:
    """What four hexadecimal digits are worth; -1 = one of them is none."""
    cdef int value = 0
    cdef int digit, i
    for i in range(4):
        digit = hex_digits[p[i]]
        if digit < 0:
            return -1
        value = value << 4 | digit
    return value


cdef inline bint _more(unsigned char c) noexcept nogil:
    """Whether a character's later byte."""
    return c & 0xC0 == 0x80


cdef inline Py_ssize_t _after_wide(Bytes p, Py_ssize_t i, Py_ssize_t end) noexcept nogil:
    """Behind the characters from ``i`` on that are not ASCII, of which none begins at ``end`` or behind it; -1 = they are not
    UTF-8."""
    cdef unsigned char c = p[i]
    while c >= 0x80 and i < end:
        if c < 0xE0:
            if c < 0xC2 or not _more(p[i + 1]):
                return -1
            i += 2
        elif c < 0xF0:
            # Neither overlong nor a surrogate.
            if not _more(p[i + 1]) or not _more(p[i + 2]) or (c == 0xE0 and p[i + 1] < 0xA0) or (c == 0xED and p[i + 1] > 0x9F):
                return -1
            i += 3
        else:
            if c > 0xF4 or not _more(p[i + 1]) or not _more(p[i + 2]) or not _more(p[i + 3]):
                return -1
            if (c == 0xF0 and p[i + 1] < 0x90) or (c == 0xF4 and p[i + 1] > 0x8F):
                return -1
            i += 4
        c = p[i]
    return i


cdef inline Py_ssize_t text_end(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind a piece of UTF-8 from ``i`` on, of ASCII and then not; -1 = it is none."""
    i = ascii_end(p, i, n)
    return _after_wide(p, i, n) if i < n else i


cdef inline Py_ssize_t wrong(Py_ssize_t i, bint in_text) noexcept nogil:
    """What says that nothing is wrong before ``i``, which is in a string or in none; :func:`wrong_at` reads it."""
    return -1 - (i << 1 | in_text)


cdef inline Py_ssize_t wrong_at(Py_ssize_t said, bint* in_text) noexcept nogil:
    in_text[0] = (-1 - said) & 1
    return (-1 - said) >> 1


cdef inline Py_ssize_t string_end(Bytes p, Py_ssize_t i, Py_ssize_t n, int* kinds, bint strict) noexcept nogil:
    """Where the quote is that ends the string whose text begins at ``i``; negative = it is no string (:func:`wrong`).

    Unless ``strict``, what is not ASCII need not be UTF-8: so an event is read, of which no byte is changed.
    """
    cdef unsigned char c
    cdef int unit
    cdef Py_ssize_t end
    # Where strings are many they are short, and how short nobody can guess: 16 bytes are looked at at once. A longer look pays
    # in what is long, and not where one ended just now.
    cdef Py_ssize_t run_from = i + LONG_TEXT
    cdef Py_ssize_t gap = WORTH_A_RUN
    i = plain_end(p, i, run_from if run_from < n else n)
    while True:
        if i >= run_from:
            end = text_run(p, i, n, kinds)
            gap = WORTH_A_RUN if end - i >= LONG_TEXT else min(2 * gap, <Py_ssize_t>FAR)
            i = end
            run_from = i + gap
        c = p[i]
        if c == 34:  # "
            return i
        if c == 92:  # backslash
            kinds[0] |= ESCAPED
            c = p[i + 1]
            if c == 117:  # u
                unit = _hex4(p + i + 2)
                if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
                    return wrong(i, True)
                i += 6
                if 0xD800 <= unit <= 0xDBFF:
                    if p[i] != 92 or p[i + 1] != 117:
                        return wrong(i, True)
                    unit = _hex4(p + i + 2)
                    if not 0xDC00 <= unit <= 0xDFFF:
                        return wrong(i, True)
                    i += 6
            elif c == 110 or c == 34 or c == 92 or c == 47 or c == 116 or c == 114 or c == 98 or c == 102:
                i += 2
            else:
                return wrong(i, True)
        elif c >= 0x80:
            kinds[0] |= WIDE
            if strict:
                end = _after_wide(p, i, run_from)
                if end < 0:
                    return wrong(i, True)
                i = end
            else:
                i += 1
        elif c < 32:
            return wrong(i, True)
        else:
            i = plain_end(p, i + 1, n)


cdef inline Py_ssize_t unescape(Bytes p, Py_ssize_t i, Py_ssize_t end, unsigned char* out) noexcept nogil:
    """What the text of a string (that was found to be one) says, in UTF-8: never longer than it is written. Its size."""
    cdef Py_ssize_t size = 0
    cdef int unit
    cdef unsigned char c
    while i < end:
        c = p[i]
        i += 1
        if c == 92:
            c = p[i]
            i += 1
            if c == 110:
                c = 10
            elif c == 116:
                c = 9
            elif c == 114:
                c = 13
            elif c == 98:
                c = 8
            elif c == 102:
                c = 12
            elif c == 117:
                unit = _hex4(p + i)
                i += 4
                if 0xD800 <= unit <= 0xDBFF:
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (_hex4(p + i + 2) - 0xDC00)
                    i += 6
                    out[size] = 0xF0 | unit >> 18
                    out[size + 1] = 0x80 | unit >> 12 & 63
                    size += 2
                    out[size] = 0x80 | unit >> 6 & 63
                    size += 1
                    unit = 0x80 | unit & 63
                elif unit >= 0x800:
                    out[size] = 0xE0 | unit >> 12
                    out[size + 1] = 0x80 | unit >> 6 & 63
                    size += 2
                    unit = 0x80 | unit & 63
                elif unit >= 0x80:
                    out[size] = 0xC0 | unit >> 6
                    size += 1
                    unit = 0x80 | unit & 63
                c = <unsigned char>unit
        out[size] = c
        size += 1
    return size


cdef inline bint is_digit(unsigned char c) noexcept nogil:
    return 48 <= c <= 57


cdef inline Py_ssize_t after_number(Bytes p, Py_ssize_t i) noexcept nogil:
    """Behind the number at ``i``; -1 = there is none."""
    if is_digit(p[i]) and not in_number[p[i + 1]]:
        return i + 1  # of one digit, which most are where there are many: told without a guess
    if p[i] == 45:  # -
        i += 1
    if not is_digit(p[i]):
        return -1
    if p[i] == 48:
        i += 1
    else:
        while is_digit(p[i]):
            i += 1
    if p[i] == 46:  # .
        i += 1
        if not is_digit(p[i]):
            return -1
        while is_digit(p[i]):
            i += 1
    if p[i] | 32 == 101:  # e
        i += 1
        if p[i] == 43 or p[i] == 45:
            i += 1
        if not is_digit(p[i]):
            return -1
        while is_digit(p[i]):
            i += 1
    return i


cdef inline Py_ssize_t after_literal(Bytes p, Py_ssize_t i, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept nogil:
    """Behind ``word``; -1 = something else stands there."""
    return i + size if n - i >= size and memcmp(p + i, word, size) == 0 else -1


cdef inline Py_ssize_t after_colon(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where the value begins, from behind its key; -1 = there is no colon."""
    i = after_space(p, i, n)
    return after_space(p, i + 1, n) if p[i] == 58 else -1


cdef inline Py_ssize_t after_key(
    Bytes p, Py_ssize_t i, Py_ssize_t n, bint strict, OnKey on_key, void* told
) noexcept nogil:
    """Where the value of the member at ``i`` begins; negative = there is no member, or its key was not wanted."""
    cdef Py_ssize_t end, value
    cdef int kinds = 0
    if p[i] != 34:
        return wrong(i, False)
    end = string_end(p, i + 1, n, &kinds, strict)
    if end < 0:
        return end
    value = after_colon(p, end + 1, n)
    if value < 0 or (on_key != NULL and not on_key(p, i + 1, end, value, kinds, told)):
        return wrong(end + 1, False)
    return value


cdef inline Py_ssize_t after_value(
    Bytes p, Py_ssize_t i, Py_ssize_t n, int room, bint strict, OnKey on_key, void* told, int* levels
) noexcept nogil:
    """Behind the value at ``i``; negative = there is none, or it nests deeper than ``room`` (:func:`wrong`). ``levels``, when
    it is given, then says how many levels were open there; more than ``room`` = too many."""
    return after_value_of(p, i, n, room, strict, on_key, told, levels, NULL)


cdef inline Py_ssize_t after_value_of(
    Bytes p, Py_ssize_t i, Py_ssize_t n, int room, bint strict, OnKey on_key, void* told, int* levels, int* held
) noexcept nogil:
    """The same; ``held``, when it is given, is told of what kinds the strings in it were, keys apart."""
    cdef uint64_t outer[STACK_WORDS]  # a bit for each container around the innermost one: 1 = an object
    cdef uint64_t bit
    cdef int depth = 0
    cdef int kinds = 0
    cdef int numbers = 0  # one behind the other, or nearly
    cdef bint in_object = False
    cdef unsigned char c
    cdef Py_ssize_t start
    while True:
        c = p[i]
        start = i
        if c == 34:
            i = string_end(p, i + 1, n, &kinds, strict)
            if i < 0:
                break
            i += 1
        elif c == 123 or c == 91:
            if depth >= room:
                depth = room + 1
                i = wrong(i, False)
                break
            i = after_space(p, i + 1, n)
            if p[i] != c + 2:  # the closing one, in ASCII
                bit = <uint64_t>1 << (depth & 63)
                if in_object:
                    outer[depth >> 6] |= bit
                else:
                    outer[depth >> 6] &= ~bit
                depth += 1
                in_object = c == 123
                if in_object:
                    i = after_key(p, i, n, strict, on_key, told)
                    if i < 0:
                        break
                continue
            i += 1
        elif c == 116:
            i = after_literal(p, i, n, b"true", 4)
        elif c == 102:
            i = after_literal(p, i, n, b"false", 5)
        elif c == 110:
            i = after_literal(p, i, n, b"null", 4)
        else:
            i = after_number(p, i)
            numbers += 1
        if i < 0:
            i = wrong(start, False)
            break
        while depth:
            i = after_space(p, i, n)
            c = p[i]
            if c == 44:  # ,
                i = after_space(p, i + 1, n)
                if in_object:
                    i = after_key(p, i, n, strict, on_key, told)
                elif numbers >= LONG_LIST:
                    numbers = 0
                    i = after_space(p, numbers_run(p, i, n), n)
                break
            if c != (125 if in_object else 93):
                i = wrong(i, False)
                break
            i += 1
            depth -= 1
            in_object = outer[depth >> 6] >> (depth & 63) & 1
        else:
            if held != NULL:
                held[0] |= kinds
            return i
        if i < 0:
            break
    if levels != NULL:
        levels[0] = depth
    return i
