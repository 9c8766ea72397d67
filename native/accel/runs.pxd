"""Long runs of what is alike in JSON, 64 bytes at a time: text with its usual escapes, and lists of whole numbers.

A run ends before whatever the caller has to look at itself, and nothing that it went over is wrong. On x86 it is compiled twice,
for what every such processor has (SSE2) and for AVX2; which one runs is asked of the processor that it runs on (with
``CFLAGS=-DFASTGW_BASE`` there is only the first, to try it). Elsewhere a run is empty. Text that is not ASCII, and escapes of four
digits, are gone over by AVX2 alone. These are inline: there is no module behind them.
"""

ctypedef const unsigned char* Bytes

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(FASTGW_BASE)
    #define FASTGW_AVX2 __attribute__((target("avx2")))
    #include <immintrin.h>
    #endif

    /* What a text was found to hold, as in json.pxd. */
    enum {FASTGW_ESCAPED = 1, FASTGW_WIDE = 2};

    #ifdef __SSE2__
    /* What 64 bytes are, a bit for each. */
    typedef struct {
        uint64_t quotes, slashes;
        uint64_t odd;    /* control characters, and what is not ASCII */
        uint64_t usual;  /* what is often escaped */
    } fastgw_text;
    typedef struct {
        uint64_t digits, zeros, commas, blanks;
    } fastgw_list;

    static CYTHON_INLINE void fastgw_text_sse2(const unsigned char *p, fastgw_text *text) {
        const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\'), blank = _mm_set1_epi8(' ');
        const __m128i line = _mm_set1_epi8('n'), tab = _mm_set1_epi8('t'), back = _mm_set1_epi8('r');
        int at;
        memset(text, 0, sizeof *text);
    #if defined(__GNUC__) && __GNUC__ >= 8
    #pragma GCC unroll 4
    #endif
        for (at = 0; at < 64; at += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + at));
            const __m128i quoted = _mm_cmpeq_epi8(some, quote), slashed = _mm_cmpeq_epi8(some, slash);
            const __m128i others = _mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(some, line), _mm_cmpeq_epi8(some, tab)), _mm_cmpeq_epi8(some, back));
            text->quotes |= (uint64_t)(unsigned)_mm_movemask_epi8(quoted) << at;
            text->slashes |= (uint64_t)(unsigned)_mm_movemask_epi8(slashed) << at;
            /* As signed bytes, all that are not ASCII come before the blank as well. */
            text->odd |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmplt_epi8(some, blank)) << at;
            text->usual |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quoted, slashed), others)) << at;
        }
    }

    static CYTHON_INLINE void fastgw_list_sse2(const unsigned char *p, fastgw_list *list) {
        const __m128i zero = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9), comma = _mm_set1_epi8(','), blank = _mm_set1_epi8(' ');
        int at;
        memset(list, 0, sizeof *list);
    #if defined(__GNUC__) && __GNUC__ >= 8
    #pragma GCC unroll 4
    #endif
        for (at = 0; at < 64; at += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + at)), figures = _mm_sub_epi8(some, zero);
            list->digits |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(figures, nine), figures)) << at;
            list->zeros |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, zero)) << at;
            list->commas |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, comma)) << at;
            list->blanks |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, blank)) << at;
        }
    }

    #ifdef FASTGW_AVX2
    #define FASTGW_BITS(low, high) \\
        ((uint64_t)(unsigned)_mm256_movemask_epi8(low) | (uint64_t)(unsigned)_mm256_movemask_epi8(high) << 32)
    #define FASTGW_TWICE(...) _mm256_setr_epi8(__VA_ARGS__, __VA_ARGS__)

    static CYTHON_INLINE FASTGW_AVX2 void fastgw_text_avx2(const unsigned char *p, fastgw_text *text) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)p), high = _mm256_loadu_si256((const __m256i *)(p + 32));
        const __m256i quote = _mm256_set1_epi8('"'), slash = _mm256_set1_epi8('\\\\'), blank = _mm256_set1_epi8(' ');
        /* By the lower four bits: the one that is usual of all that end with them. */
        const __m256i usual = FASTGW_TWICE(-1, 0, 'r', 0, 't', 0, 'f', 0, 0, 0, 0, 0, '\\\\', 0, 'n', '/');
        text->quotes = FASTGW_BITS(_mm256_cmpeq_epi8(low, quote), _mm256_cmpeq_epi8(high, quote));
        text->slashes = FASTGW_BITS(_mm256_cmpeq_epi8(low, slash), _mm256_cmpeq_epi8(high, slash));
        text->odd = FASTGW_BITS(_mm256_cmpgt_epi8(blank, low), _mm256_cmpgt_epi8(blank, high));
        text->usual = text->quotes | FASTGW_BITS(
            _mm256_cmpeq_epi8(_mm256_shuffle_epi8(usual, low), low), _mm256_cmpeq_epi8(_mm256_shuffle_epi8(usual, high), high));
    }

    static CYTHON_INLINE FASTGW_AVX2 void fastgw_list_avx2(const unsigned char *p, fastgw_list *list) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)p), high = _mm256_loadu_si256((const __m256i *)(p + 32));
        const __m256i zero = _mm256_set1_epi8('0'), nine = _mm256_set1_epi8(9);
        const __m256i comma = _mm256_set1_epi8(','), blank = _mm256_set1_epi8(' ');
        const __m256i first = _mm256_sub_epi8(low, zero), second = _mm256_sub_epi8(high, zero);
        list->digits = FASTGW_BITS(
            _mm256_cmpeq_epi8(_mm256_min_epu8(first, nine), first), _mm256_cmpeq_epi8(_mm256_min_epu8(second, nine), second));
        list->zeros = FASTGW_BITS(_mm256_cmpeq_epi8(low, zero), _mm256_cmpeq_epi8(high, zero));
        list->commas = FASTGW_BITS(_mm256_cmpeq_epi8(low, comma), _mm256_cmpeq_epi8(high, comma));
        list->blanks = FASTGW_BITS(_mm256_cmpeq_epi8(low, blank), _mm256_cmpeq_epi8(high, blank));
    }

    /* Where 32 bytes are no UTF-8, by each and the three before it (J. Keiser, D. Lemire, Validating UTF-8 in less than one
       instruction per byte): what may be wrong by the upper half of the byte before, by its lower half, and by the upper half
       of the byte itself; what all three say is. */
    static CYTHON_INLINE FASTGW_AVX2 unsigned fastgw_no_utf8(const unsigned char *p) {
        enum {SHORT = 1, LONG = 2, OVERLONG_3 = 4, LARGE = 8, SURROGATE = 16, OVERLONG_2 = 32, LARGER = 64, OVERLONG_4 = 64};
        const int two = -128, any = SHORT | LONG | two;  /* two that go on, one behind the other */
        const __m256i half = _mm256_set1_epi8(15);
        const __m256i some = _mm256_loadu_si256((const __m256i *)p);
        const __m256i before = _mm256_loadu_si256((const __m256i *)(p - 1));
        const __m256i upper = _mm256_shuffle_epi8(
            FASTGW_TWICE(LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG, two, two, two, two, SHORT | OVERLONG_2, SHORT,
                SHORT | OVERLONG_3 | SURROGATE, SHORT | LARGE | LARGER | OVERLONG_4),
            _mm256_and_si256(_mm256_srli_epi16(before, 4), half));
        const __m256i lower = _mm256_shuffle_epi8(
            FASTGW_TWICE(any | OVERLONG_3 | OVERLONG_2 | OVERLONG_4, any | OVERLONG_2, any, any, any | LARGE,
                any | LARGE | LARGER, any | LARGE | LARGER, any | LARGE | LARGER, any | LARGE | LARGER, any | LARGE | LARGER,
                any | LARGE | LARGER, any | LARGE | LARGER, any | LARGE | LARGER, any | LARGE | LARGER | SURROGATE,
                any | LARGE | LARGER, any | LARGE | LARGER),
            _mm256_and_si256(before, half));
        const __m256i itself = _mm256_shuffle_epi8(
            FASTGW_TWICE(SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT,
                LONG | OVERLONG_2 | two | OVERLONG_3 | LARGER, LONG | OVERLONG_2 | two | OVERLONG_3 | LARGE,
                LONG | OVERLONG_2 | two | SURROGATE | LARGE, LONG | OVERLONG_2 | two | SURROGATE | LARGE,
                SHORT, SHORT, SHORT, SHORT),
            _mm256_and_si256(_mm256_srli_epi16(some, 4), half));
        /* The third byte of three, and the third and the fourth of four, are such a second one; no other may be. */
        const __m256i third = _mm256_subs_epu8(_mm256_loadu_si256((const __m256i *)(p - 2)), _mm256_set1_epi8(0xE0 - 0x80));
        const __m256i fourth = _mm256_subs_epu8(_mm256_loadu_si256((const __m256i *)(p - 3)), _mm256_set1_epi8(0xF0 - 0x80));
        const __m256i goes_on = _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8(-128));
        const __m256i wrong = _mm256_xor_si256(goes_on, _mm256_and_si256(_mm256_and_si256(upper, lower), itself));
        return ~(unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(wrong, _mm256_setzero_si256()));
    }

    static CYTHON_INLINE FASTGW_AVX2 uint64_t fastgw_wide_avx2(const unsigned char *p) {
        return FASTGW_BITS(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32)));
    }

    /* Of what is `escaped` each u that four hexadecimal digits follow within these 64 bytes, which are no half of a pair. */
    static CYTHON_INLINE FASTGW_AVX2 uint64_t fastgw_units_avx2(const unsigned char *p, uint64_t escaped) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)p), high = _mm256_loadu_si256((const __m256i *)(p + 32));
        const __m256i small = _mm256_set1_epi8(32), zero = _mm256_set1_epi8('0'), nine = _mm256_set1_epi8(9);
        const __m256i a = _mm256_set1_epi8('a'), five = _mm256_set1_epi8(5), u = _mm256_set1_epi8('u'), d = _mm256_set1_epi8('d');
        const __m256i low_digit = _mm256_sub_epi8(low, zero), high_digit = _mm256_sub_epi8(high, zero);
        const __m256i low_small = _mm256_or_si256(low, small), high_small = _mm256_or_si256(high, small);
        const __m256i low_letter = _mm256_sub_epi8(low_small, a), high_letter = _mm256_sub_epi8(high_small, a);
        const uint64_t hex = FASTGW_BITS(
            _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(low_digit, nine), low_digit),
                _mm256_cmpeq_epi8(_mm256_min_epu8(low_letter, five), low_letter)),
            _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(high_digit, nine), high_digit),
                _mm256_cmpeq_epi8(_mm256_min_epu8(high_letter, five), high_letter)));
        const uint64_t pairs = FASTGW_BITS(_mm256_cmpeq_epi8(low_small, d), _mm256_cmpeq_epi8(high_small, d));
        return escaped & FASTGW_BITS(_mm256_cmpeq_epi8(low, u), _mm256_cmpeq_epi8(high, u))
            & hex >> 1 & hex >> 2 & hex >> 3 & hex >> 4 & ~(pairs >> 1);
    }

    static CYTHON_INLINE FASTGW_AVX2 uint64_t fastgw_wrong_avx2(const unsigned char *p) {
        return fastgw_no_utf8(p) | (uint64_t)fastgw_no_utf8(p + 32) << 32;
    }
    #endif

    /* Where a look may begin again at `i` or shortly before: in no escape and in no character. */
    static CYTHON_INLINE Py_ssize_t fastgw_boundary(const unsigned char *p, Py_ssize_t i, uint64_t escaped) {
        int back;
        if (escaped)
            return i - 1;
        for (back = 1; back <= 3 && p[i - back] >= 0x80; back++)
            if (p[i - back] >= 0xC0)
                return i - back;
        return i;
    }

    /* The loop of a text run. `wide` says of 64 bytes which are not ASCII and may be gone over, `wrong` where they are no UTF-8,
       `units` which unusual escapes may be gone over. */
    #define FASTGW_TEXT_RUN(name, how, look, wide, wrong, units) \\
    static how Py_ssize_t name(const unsigned char *p, const Py_ssize_t start, Py_ssize_t n, int *kinds) { \\
        const uint64_t odd_places = 0xAAAAAAAAAAAAAAAAULL; \\
        uint64_t carried = 0, before = 0;  /* the first byte is escaped; the last three bytes were not all ASCII */ \\
        Py_ssize_t i, back; \\
        int held = 0; \\
        for (i = start; i + 64 <= n; i += 64) { \\
            const uint64_t was = carried; \\
            uint64_t escaped = 0, more = 0, bad = 0, stops; \\
            fastgw_text text; \\
            look(p + i, &text); \\
            if (text.slashes | carried) { \\
                /* Of backslashes side by side each second one ends an escape, and begins none: a run that begins at an even \\
                   place is told from one that begins at an odd one by where its carry arrives in a subtraction. */ \\
                const uint64_t begin = text.slashes & ~carried; \\
                const uint64_t ends = ((begin << 1 | odd_places) - begin) ^ odd_places; \\
                escaped = ends ^ (text.slashes | carried); \\
                carried = (ends & text.slashes) >> 63; \\
            } \\
            stops = escaped & ~text.usual; \\
            if (stops) \\
                stops &= ~units(p + i, stops); \\
            stops |= text.quotes & ~escaped; \\
            if (text.odd | before) { \\
                more = wide(p + i); \\
                stops |= text.odd & ~more; \\
                if (more | before) \\
                    stops |= bad = wrong(p + i); \\
                before = more >> 61; \\
            } \\
            if (stops) { \\
                const int at = __builtin_ctzll(stops); \\
                const uint64_t passed = ((uint64_t)1 << at) - 1; \\
                if (bad >> at & 1) {  /* what it belongs to may have begun before: who looks at each byte finds it */ \\
                    carried = was; \\
                    break; \\
                } \\
                held |= (text.slashes & passed ? FASTGW_ESCAPED : 0) | (more & passed ? FASTGW_WIDE : 0); \\
                if (at >= 60 && escaped >> at & 1 && p[i + at] == 'u') {  /* perhaps it is cut off here */ \\
                    i += at - 65; \\
                    carried = before = 0; \\
                    continue; \\
                } \\
                *kinds |= held; \\
                return i + at - (int)(escaped >> at & 1); \\
            } \\
            held |= (text.slashes ? FASTGW_ESCAPED : 0) | (more ? FASTGW_WIDE : 0); \\
        } \\
        *kinds |= held; \\
        back = fastgw_boundary(p, i, carried); \\
        return back > start ? back : start; \\
    }

    /* The loop of a run of whole numbers. Of each byte the one before it says whether it may stand there. */
    #define FASTGW_NUMBERS_RUN(name, how, look) \\
    static how Py_ssize_t name(const unsigned char *p, const Py_ssize_t start, Py_ssize_t n) { \\
        uint64_t digit = 0, comma = 1, zero = 0;  /* what the byte before was: the last, a zero that begins a number */ \\
        Py_ssize_t i; \\
        for (i = start; i + 64 <= n; i += 64) { \\
            uint64_t behind, leads, stops; \\
            fastgw_list list; \\
            look(p + i, &list); \\
            behind = list.digits << 1 | digit; \\
            leads = list.zeros & ~behind; \\
            stops = ~(list.digits | list.commas | list.blanks) | (list.commas & ~behind) \\
                | (list.blanks & ~(list.commas << 1 | comma)) | (list.digits & (leads << 1 | zero)); \\
            if (stops) { \\
                i += __builtin_ctzll(stops); \\
                break; \\
            } \\
            digit = list.digits >> 63; \\
            comma = list.commas >> 63; \\
            zero = leads >> 63; \\
        } \\
        while (i > start && p[i - 1] >= '0' && p[i - 1] <= '9') \\
            i--; \\
        return i; \\
    }

    #define FASTGW_NONE(...) 0
    FASTGW_TEXT_RUN(fastgw_text_run_sse2, , fastgw_text_sse2, FASTGW_NONE, FASTGW_NONE, FASTGW_NONE)
    FASTGW_NUMBERS_RUN(fastgw_numbers_run_sse2, , fastgw_list_sse2)
    #ifdef FASTGW_AVX2
    FASTGW_TEXT_RUN(fastgw_text_run_avx2, FASTGW_AVX2, fastgw_text_avx2, fastgw_wide_avx2, fastgw_wrong_avx2, fastgw_units_avx2)
    FASTGW_NUMBERS_RUN(fastgw_numbers_run_avx2, FASTGW_AVX2, fastgw_list_avx2)
    #endif
    #endif

    static CYTHON_INLINE Py_ssize_t fastgw_text_run(const unsigned char *p, Py_ssize_t i, Py_ssize_t n, int *kinds) {
    #ifdef FASTGW_AVX2
        if (__builtin_cpu_supports("avx2"))
            return fastgw_text_run_avx2(p, i, n, kinds);
    #endif
    #ifdef __SSE2__
        return fastgw_text_run_sse2(p, i, n, kinds);
    #else
        return i;
    #endif
    }

    static CYTHON_INLINE Py_ssize_t fastgw_numbers_run(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef FASTGW_AVX2
        if (__builtin_cpu_supports("avx2"))
            return fastgw_numbers_run_avx2(p, i, n);
    #endif
    #ifdef __SSE2__
        return fastgw_numbers_run_sse2(p, i, n);
    #else
        return i;
    #endif
    }
    """
    # On in a string from ``i``, which is in no escape and in no character, and has three bytes before it: over text and the usual
    # escapes. Whoever calls looks at what stands where it ends: a quote, the backslash of another escape, what goes on with no
    # string; or anything, where fewer than 64 bytes are left. ``kinds`` is told what it went over.
    Py_ssize_t text_run "fastgw_text_run"(Bytes p, Py_ssize_t i, Py_ssize_t n, int* kinds) noexcept nogil
    # On in a list from ``i``, where a value begins: over whole numbers, with commas and at most one blank between them. Where it
    # ends a value begins, or a blank before one, or stands what is no value; that may be ``i`` itself.
    Py_ssize_t numbers_run "fastgw_numbers_run"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil
