cimport cython

from fastgw.accel.chunks cimport ChunkScanner
from fastgw.accel.usage cimport Figures, Scan


# What a run of events that go on as they are came to, and what was known before where they say nothing else.
cdef struct Run:
    Py_ssize_t events
    Py_ssize_t tokens
    bint spoke  # something was said of usage
    Figures said  # and this is the last word on it (on the prompt: with what was said before)
    bint used  # it was no measurement
    bint of_choices  # it came with choices
    bint counted  # the completion was said here, when so many tokens had come
    Py_ssize_t counted_at
    const unsigned char *reason
    Py_ssize_t reason_bytes  # 0 = none was given
    int done
    bint error
    const unsigned char *failure  # the data of the first event that told of it; NULL = it is not held
    Py_ssize_t failure_bytes
    # The last event with a text, and nothing else to say, whose surroundings are not known; NULL = there is none.
    const unsigned char *stranger
    Py_ssize_t stranger_bytes
    const unsigned char *stranger_text
    Py_ssize_t stop_bytes  # of the event behind them that is taken out or held; 0 = there is none
    int stop_what  # and what it is


# An event of any length that is read as it passes.
cdef struct LongEvent:
    Scan scan
    int kind  # of the line that we are in
    int size
    unsigned char head[6]  # its first bytes, while they do not say yet what it is
    int name  # letters of "error" with which the line names it; -1 = it is called something else
    bint named  # so, in a line before
    bint begun


@cython.final
cdef class SseScanner:
    cdef public Py_ssize_t events
    cdef public Py_ssize_t tokens
    cdef public int done
    cdef public bint error
    cdef public bint first_token_seen
    cdef public bint mid_event
    cdef public bint of_choices
    cdef public long long prompt_tokens
    cdef public long long completion_tokens
    cdef public long long cached_tokens
    cdef public long long reasoning_tokens
    cdef public Py_ssize_t long_at
    cdef public Py_ssize_t said_at
    cdef public long long seconds
    cdef public bytes failure
    cdef public bytes finish_reason
    cdef public bytes last

    cdef bint _strip
    cdef bint _amid_comment
    cdef bint _candidate
    cdef bint _overlong
    cdef bint _drop_lf
    cdef bint _given
    cdef bint _first
    cdef bint _used
    cdef int _lessons
    cdef LongEvent *_long  # NULL = there is none
    # The unfinished event: `_size` bytes of a buffer that there is only while it is needed.
    cdef unsigned char *_buffer
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _size
    cdef Py_ssize_t _sent
    cdef Py_ssize_t _scanned
    # What surrounds the text of a plain event; pointers into `_lesson`.
    cdef unsigned char *_lesson
    cdef Py_ssize_t _lesson_capacity
    cdef const unsigned char *_prefix
    cdef const unsigned char *_suffix
    cdef Py_ssize_t _prefix_bytes  # 0 = none is known
    cdef Py_ssize_t _suffix_bytes

    cpdef bytes feed(self, bytes payload)
    cpdef bytes flush(self)
    cpdef bytes release(self)

    cdef void _begin(self, Run *run) noexcept nogil
    cdef Py_ssize_t _plain(self, const unsigned char *p, Py_ssize_t n, Run *run) noexcept nogil
    cdef int _commit(self, const Run *run) except -1
    cdef void _learn(self, const Run *run) noexcept nogil
    cdef bytes _feed(self, bytes payload, const Run *known, Py_ssize_t known_bytes)
    cdef int _sifted(
        self, list out, const unsigned char *p, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t size, int what, Py_ssize_t *sent
    ) except -1
    cdef bytes _let_go(self)
    cdef Py_ssize_t _comment_end(self, const unsigned char *p, Py_ssize_t pos, Py_ssize_t n) noexcept nogil
    cdef int _event(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int _decoded(self, bytes data, bint error) except -1
    cdef int _long_begins(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int _long_ends(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int _keep_tail(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int _append(self, const unsigned char *p, Py_ssize_t n) except -1


cpdef Py_ssize_t passes(ChunkScanner chunks, SseScanner sse, bytes data) except -1
cpdef bytes line_at(bytes data, Py_ssize_t at)
