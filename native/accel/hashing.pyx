"""Compiled twin of fastgw/accel/hashing.py: SHA-256 (FIPS 180-4) of a short string without an object per step.

With the processor's own instructions where it has them (asked once), else in plain C.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static const uint32_t fastgw_round[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };

    static uint32_t fastgw_big_endian(const unsigned char *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }

    #define FASTGW_TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))

    static void fastgw_blocks_plain(uint32_t state[8], const unsigned char *p, size_t count) {
        uint32_t w[64], v[8], one, two;
        int i;
        for (; count; count--, p += 64) {
            for (i = 0; i < 16; i++)
                w[i] = fastgw_big_endian(p + 4 * i);
            for (; i < 64; i++)
                w[i] = w[i - 16] + w[i - 7]
                     + (FASTGW_TURN(w[i - 15], 7) ^ FASTGW_TURN(w[i - 15], 18) ^ w[i - 15] >> 3)
                     + (FASTGW_TURN(w[i - 2], 17) ^ FASTGW_TURN(w[i - 2], 19) ^ w[i - 2] >> 10);
            memcpy(v, state, sizeof(v));
            for (i = 0; i < 64; i++) {
                one = v[7] + (FASTGW_TURN(v[4], 6) ^ FASTGW_TURN(v[4], 11) ^ FASTGW_TURN(v[4], 25))
                    + (v[6] ^ (v[4] & (v[5] ^ v[6]))) + fastgw_round[i] + w[i];
                two = (FASTGW_TURN(v[0], 2) ^ FASTGW_TURN(v[0], 13) ^ FASTGW_TURN(v[0], 22))
                    + ((v[0] & v[1]) | (v[2] & (v[0] | v[1])));
                v[7] = v[6]; v[6] = v[5]; v[5] = v[4]; v[4] = v[3] + one;
                v[3] = v[2]; v[2] = v[1]; v[1] = v[0]; v[0] = one + two;
            }
            for (i = 0; i < 8; i++)
                state[i] += v[i];
        }
    }

    static void (*fastgw_blocks)(uint32_t *, const unsigned char *, size_t) = fastgw_blocks_plain;

    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    #include <cpuid.h>
    #include <immintrin.h>

    /* The instructions want the state as two vectors, ABEF and CDGH, and take four rounds' words at a time. */
    __attribute__((target("sha,sse4.1")))
    static void fastgw_blocks_sha(uint32_t state[8], const unsigned char *p, size_t count) {
        const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
        __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);        /* CDAB */
        __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b); /* EFGH */
        __m128i abef = _mm_alignr_epi8(low, high, 8);
        __m128i cdgh = _mm_blend_epi16(high, low, 0xf0);
        for (; count; count--, p += 64) {
            const __m128i abef_was = abef, cdgh_was = cdgh;
            __m128i w[4], sum;
            int i;
            for (i = 0; i < 16; i++) {
                if (i < 4)
                    w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
                else
                    /* w[t-16] + s0(w[t-15]) + w[t-7] + s1(w[t-2]), four at once; the ring holds the last sixteen. */
                    w[i & 3] = _mm_sha256msg2_epu32(
                        _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]),
                                      _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4)),
                        w[(i + 3) & 3]);
                sum = _mm_add_epi32(w[i & 3], _mm_loadu_si128((const __m128i *)(fastgw_round + 4 * i)));
                cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
                abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            }
            abef = _mm_add_epi32(abef, abef_was);
            cdgh = _mm_add_epi32(cdgh, cdgh_was);
        }
        low = _mm_shuffle_epi32(abef, 0x1b);  /* FEBA */
        high = _mm_shuffle_epi32(cdgh, 0xb1); /* DCHG */
        _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
        _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
    }

    static int fastgw_use_instructions(int wanted) {
        unsigned a, b, c, d;
        int has = __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 19) && (c & 1u << 9)
               && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
        fastgw_blocks = has && wanted ? fastgw_blocks_sha : fastgw_blocks_plain;
        return has;
    }
    #else
    static int fastgw_use_instructions(int wanted) { (void)wanted; return 0; }
    #endif

    static void fastgw_sha256(const unsigned char *p, size_t size, unsigned char *out) {
        uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
        unsigned char end[128] = {0};
        size_t rest = size & 63, blocks = rest < 56 ? 1 : 2;
        uint64_t bits = (uint64_t)size << 3;
        int i;
        fastgw_blocks(state, p, size >> 6);
        memcpy(end, p + (size - rest), rest);
        end[rest] = 0x80;
        for (i = 0; i < 8; i++)
            end[64 * blocks - 1 - i] = (unsigned char)(bits >> 8 * i);
        fastgw_blocks(state, end, blocks);
        for (i = 0; i < 8; i++) {
            out[4 * i] = (unsigned char)(state[i] >> 24);
            out[4 * i + 1] = (unsigned char)(state[i] >> 16);
            out[4 * i + 2] = (unsigned char)(state[i] >> 8);
            out[4 * i + 3] = (unsigned char)state[i];
        }
    }
    """
    int fastgw_use_instructions(int wanted)
    void fastgw_sha256(const unsigned char *p, size_t size, unsigned char *out)

DIGEST_BYTES = 32


def _use_instructions(bint wanted):
    """For tests, which hold both ways against another implementation. False = this processor has no such instructions."""
    return bool(fastgw_use_instructions(wanted))


_use_instructions(True)


cpdef bytes digest(bytes token):
    """SHA-256 of a credential, 32 bytes."""
    cdef bytes out
    if token is None:
        raise TypeError("object supporting the buffer API required")
    out = PyBytes_FromStringAndSize(NULL, 32)
    fastgw_sha256(
        <const unsigned char *>PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token), <unsigned char *>PyBytes_AS_STRING(out)
    )
    return out
