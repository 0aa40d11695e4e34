# cython: language_level=3
"""Loops over bytes in C.  `_reference.py` defines what each function means; the tests hold the two together."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memchr, memcpy

cdef extern from *:
    """
    #include <stdint.h>

    /* add to one counter and sum all, sequentially consistent: of two that add at once, the later sees both */
    static inline int64_t engine_add_and_sum(int32_t *counters, Py_ssize_t count, Py_ssize_t index, int32_t delta) {
        int64_t sum = 0;
        __atomic_fetch_add(counters + index, delta, __ATOMIC_SEQ_CST);
        for (Py_ssize_t i = 0; i < count; i++)
            sum += __atomic_load_n(counters + i, __ATOMIC_SEQ_CST);
        return sum;
    }

    /* nonzero if at[0..size) has a CR or LF that is no CRLF, or a dot after an LF; looks at at[-1] too; written to be vectorised */
    static inline int engine_needs_a_look(const unsigned char *at, Py_ssize_t size) {
        unsigned char found = 0;
        for (Py_ssize_t i = 0; i < size; i++) {
            unsigned char before = at[i - 1], here = at[i];
            found |= (unsigned char)((here == '\\n') ^ (before == '\\r')) | (unsigned char)((before == '\\n') & (here == '.'));
        }
        return found;
    }

    static inline int engine_has_8bit(const unsigned char *at, Py_ssize_t size) {
        unsigned char found = 0;
        for (Py_ssize_t i = 0; i < size; i++)
            found |= at[i];
        return found >> 7;
    }

    static inline void engine_no_view(Py_buffer *view) { view->obj = NULL; }

    enum { ATEXT = 1, ALNUM = 2 };
    static unsigned char engine_class[256];
    static void engine_fill_classes(void) {
        const char *others = "!#$%&'*+-/=?^_`{|}~";
        for (int c = 0; c < 128; c++)
            if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
                engine_class[c] = ATEXT | ALNUM;
        for (; *others; others++)
            engine_class[(unsigned char)*others] = ATEXT;
    }
    """
    int64_t engine_add_and_sum(int32_t *counters, Py_ssize_t count, Py_ssize_t index, int32_t delta) noexcept nogil
    int engine_needs_a_look(const unsigned char *at, Py_ssize_t size) noexcept nogil
    int engine_has_8bit(const unsigned char *at, Py_ssize_t size) noexcept nogil
    void engine_no_view(Py_buffer *view) noexcept nogil
    const unsigned char *engine_class
    void engine_fill_classes() noexcept nogil
    enum:
        ATEXT
        ALNUM

engine_fill_classes()

NEED_DATA = C_NEED_DATA
BARE_EOL = C_BARE_EOL
MALFORMED = C_MALFORMED
BODY_START = LINE_START
BODY_LINE = IN_LINE
BODY_CR = AFTER_CR
BODY_DOT = AFTER_DOT
BODY_DOT_CR = AFTER_DOT_CR
BODY_LENIENT = LENIENT

cdef enum:
    CR = 13
    LF = 10
    SP = 32
    TAB = 9
    DOT = 46
    COLON = 58
    BLOCK = 512             # bytes that scan_body looks at in one go
    MAX_LOCAL = 64          # RFC 5321 §4.5.3.1.1
    MAX_DOMAIN = 255
    MAX_LABEL = 63


cdef inline int open_span(object data, Span *span, Py_buffer *view) except -1:
    """Point *span* at the bytes of *data*; *view* is to be released by the caller."""
    if PyBytes_CheckExact(data):
        engine_no_view(view)    # releasing it does nothing
        span.at = <const unsigned char *>PyBytes_AS_STRING(data)
        span.size = PyBytes_GET_SIZE(data)
    else:
        PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
        span.at = <const unsigned char *>view.buf
        span.size = view.len
    return 0


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == SP or c == TAB


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 0x20 if c'A' <= c <= c'Z' else c


cdef inline unsigned char upper(unsigned char c) noexcept nogil:
    return c & 0xDF if c'a' <= c <= c'z' else c


cdef inline bytes slice_of(const unsigned char *at, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char *>at, size)


# --- message bodies -------------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t find_body_end(Span data, Py_ssize_t start, int *state) noexcept nogil:
    cdef Py_ssize_t at = start
    cdef Py_ssize_t stop
    cdef int lenient = state[0] & LENIENT
    cdef int now = state[0] & ~LENIENT
    cdef int before = state[0]
    cdef unsigned char c
    while at < data.size:
        # A whole block at once, where the bytes before it are here and tell the state.
        if not lenient and at > start and now <= AFTER_CR:
            stop = at + BLOCK if data.size - at > BLOCK else data.size
            if not engine_needs_a_look(data.at + at, stop - at):
                at = stop
                c = data.at[at - 1]
                now = LINE_START if c == LF else AFTER_CR if c == CR else IN_LINE
                continue
        else:
            stop = at + 1
        # A block with something in it, or in a state that one byte does not tell: byte by byte, and past it until it is plain again.
        while at < data.size and (at < stop or now > AFTER_CR or lenient):
            c = data.at[at]
            at += 1
            if c == LF:
                if now == AFTER_CR:
                    now = LINE_START
                elif now == AFTER_DOT_CR:
                    state[0] = LINE_START
                    return at
                elif lenient:
                    now = IN_LINE
                else:
                    state[0] = before | LENIENT
                    return C_BARE_EOL
            elif (now == AFTER_CR or now == AFTER_DOT_CR) and not lenient:
                state[0] = before | LENIENT
                return C_BARE_EOL
            elif c == CR:
                now = AFTER_DOT_CR if now == AFTER_DOT else AFTER_CR
            elif c == DOT and now == LINE_START:
                now = AFTER_DOT
            else:
                now = IN_LINE
    state[0] = now | lenient
    return C_NEED_DATA


def scan_body(data not None, Py_ssize_t start, int state):
    """(offset just past the final dot line, NEED_DATA or BARE_EOL; the state to go on with).  RFC 5321 §4.1.1.4."""
    cdef Py_buffer view
    cdef Span span
    cdef Py_ssize_t end
    assert start >= 0 and 0 <= state & ~LENIENT <= AFTER_DOT_CR
    open_span(data, &span, &view)
    try:
        end = find_body_end(span, start, &state)
        return end, state
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t find_crlf(Span data, Py_ssize_t start) noexcept nogil:
    """Offset of the next CRLF's CR, or -1."""
    cdef const unsigned char *at = data.at + start
    cdef const unsigned char *end = data.at + data.size
    while at < end:
        at = <const unsigned char *>memchr(at, LF, end - at)
        if at == NULL:
            return -1
        if at > data.at + start and (at - 1)[0] == CR:
            return at - 1 - data.at
        at += 1
    return -1


cdef Py_ssize_t count_dots(Span data) noexcept nogil:
    """How many lines start with a dot."""
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t at = 0
    while at < data.size:
        if data.at[at] == DOT:
            count += 1
        at = find_crlf(data, at)
        if at < 0:
            break
        at += 2
    return count


cdef bytes copy_lines(object data, Span source, bint adding):
    """*source* with a dot added to, or taken from, each line that starts with one."""
    cdef Py_ssize_t dots = count_dots(source)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t stop
    cdef bytes result
    cdef unsigned char *to
    if not dots and PyBytes_CheckExact(data):
        return <bytes>data
    result = PyBytes_FromStringAndSize(NULL, source.size + (dots if adding else -dots))
    to = <unsigned char *>PyBytes_AS_STRING(result)
    while at < source.size:
        stop = find_crlf(source, at)
        stop = source.size if stop < 0 else stop + 2
        if source.at[at] == DOT:
            if adding:
                to[0] = DOT
                to += 1
            else:
                at += 1
        memcpy(to, source.at + at, stop - at)
        to += stop - at
        at = stop
    assert to == <unsigned char *>PyBytes_AS_STRING(result) + PyBytes_GET_SIZE(result)
    return result


def stuff(data not None):
    """*data*, whole CRLF lines, in wire form (RFC 5321 §4.5.2)."""
    cdef Py_buffer view
    cdef Span span
    open_span(data, &span, &view)
    try:
        return copy_lines(data, span, True)
    finally:
        PyBuffer_Release(&view)


def unstuff(data not None):
    """The lines that *data* is the wire form of (RFC 5321 §4.5.2)."""
    cdef Py_buffer view
    cdef Span span
    open_span(data, &span, &view)
    try:
        return copy_lines(data, span, False)
    finally:
        PyBuffer_Release(&view)


def has_8bit(data not None):
    """Whether any byte of *data* is over 127."""
    cdef Py_buffer view
    cdef Span span
    open_span(data, &span, &view)
    try:
        return engine_has_8bit(span.at, span.size) != 0
    finally:
        PyBuffer_Release(&view)


# --- header fields --------------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t field_name(Span line, tuple names):
    """Index in *names* of the field that starts *line*, or -1."""
    cdef Py_ssize_t index, size, i
    cdef bytes name
    cdef const unsigned char *wanted
    for index in range(len(names)):
        name = <bytes>names[index]
        size = PyBytes_GET_SIZE(name)
        if size >= line.size:
            continue
        wanted = <const unsigned char *>PyBytes_AS_STRING(name)
        i = 0
        while i < size and lower(line.at[i]) == wanted[i]:
            i += 1
        if i < size:
            continue
        while i < line.size and is_blank(line.at[i]):
            i += 1
        if i < line.size and line.at[i] == COLON:
            return index
    return -1


def find_fields(data not None, tuple names not None):
    """(end of the header section with its blank line, [(index in *names*, start, stop) of each such field])."""
    cdef Py_buffer view
    cdef Span span
    cdef Span line
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t stop
    cdef Py_ssize_t begun = 0
    cdef Py_ssize_t current = -1
    cdef list found = []
    for name in names:
        if not PyBytes_CheckExact(name):
            raise TypeError("names are bytes")
    open_span(data, &span, &view)
    try:
        while at < span.size:
            stop = find_crlf(span, at)
            stop = span.size if stop < 0 else stop + 2
            if not is_blank(span.at[at]):
                if current >= 0:
                    found.append((current, begun, at))
                    current = -1
                if stop - at == 2 and span.at[at] == CR and span.at[at + 1] == LF:
                    return stop, found
                line.at = span.at + at
                line.size = stop - at
                current = field_name(line, names)
                begun = at
            at = stop
        if current >= 0:
            found.append((current, begun, span.size))
        return span.size, found
    finally:
        PyBuffer_Release(&view)


# --- commands -------------------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t find_line_end(Span data, Py_ssize_t start) noexcept nogil:
    cdef const unsigned char *lf
    cdef const unsigned char *cr
    cdef const unsigned char *begin = data.at + start
    cdef const unsigned char *end = data.at + data.size
    if start >= data.size:
        return C_NEED_DATA
    lf = <const unsigned char *>memchr(begin, LF, end - begin)
    cr = <const unsigned char *>memchr(begin, CR, (lf if lf != NULL else end) - begin)
    if lf == NULL:
        return C_NEED_DATA if cr == NULL or cr == end - 1 else C_BARE_EOL
    return lf + 1 - data.at if cr != NULL and cr == lf - 1 else C_BARE_EOL


def read_command(data not None, Py_ssize_t start=0):
    """(offset past the CRLF of the command line at *start*, NEED_DATA or BARE_EOL; its verb; its argument).  RFC 5321 §2.3.8."""
    cdef Py_buffer view
    cdef Span span
    cdef Py_ssize_t end, size, at, stop, i
    cdef bytes verb
    cdef char *to
    assert start >= 0
    open_span(data, &span, &view)
    try:
        end = find_line_end(span, start)
        if end < 0:
            return end, b"", b""
        stop = end - 2
        at = start
        while at < stop and not is_blank(span.at[at]):
            at += 1
        size = at - start
        verb = PyBytes_FromStringAndSize(NULL, size)
        to = PyBytes_AS_STRING(verb)
        for i in range(size):
            to[i] = <char>upper(span.at[start + i])
        while at < stop and is_blank(span.at[at]):
            at += 1
        while stop > at and is_blank(span.at[stop - 1]):
            stop -= 1
        return end, verb, slice_of(span.at + at, stop - at)
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t path_end(const unsigned char *at, Py_ssize_t size) noexcept nogil:
    """Length of the `local@domain` that *at* starts with, up to its `>`; 0 if it is not of the common form."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t domain, label
    cdef unsigned char c
    while i < size and (engine_class[at[i]] & ATEXT or at[i] == DOT):
        if at[i] == DOT and (i == 0 or at[i - 1] == DOT):
            return 0
        i += 1
    if i == 0 or i > MAX_LOCAL or i >= size or at[i] != c'@' or at[i - 1] == DOT:
        return 0
    i += 1
    domain = label = i
    while i < size:
        c = at[i]
        if engine_class[c] & ALNUM:
            pass
        elif c == c'-':
            if i == label:
                return 0
        elif c == DOT or c == c'>':
            if i == label or i - label > MAX_LABEL or at[i - 1] == c'-':
                return 0
            if c == c'>':
                return i if i - domain <= MAX_DOMAIN else 0
            label = i + 1
        else:
            return 0
        i += 1
    return 0


def parse_path(argument not None, bytes keyword not None):
    """(address, parameters) of `FROM:<local@domain> parameters` in its common form, otherwise None (RFC 5321 §4.1.2)."""
    cdef Py_buffer view
    cdef Span span
    cdef Py_ssize_t at = PyBytes_GET_SIZE(keyword)
    cdef Py_ssize_t stop, size, i
    cdef const unsigned char *wanted = <const unsigned char *>PyBytes_AS_STRING(keyword)
    cdef bytes address
    open_span(argument, &span, &view)
    try:
        if span.size <= at or span.at[at] != c'<':
            return None
        for i in range(at):
            if upper(span.at[i]) != wanted[i]:
                return None
        at += 1
        size = path_end(span.at + at, span.size - at)
        if not size:
            return None
        address = slice_of(span.at + at, size)
        at += size + 1
        if at < span.size and not is_blank(span.at[at]):
            return None
        stop = span.size
        while at < stop and is_blank(span.at[at]):
            at += 1
        while stop > at and is_blank(span.at[stop - 1]):
            stop -= 1
        return address, slice_of(span.at + at, stop - at)
    finally:
        PyBuffer_Release(&view)


# --- replies --------------------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t find_reply_end(Span data, Py_ssize_t start) noexcept nogil:
    cdef const unsigned char *end = data.at + data.size
    cdef const unsigned char *first = data.at + start
    cdef const unsigned char *at = first
    cdef const unsigned char *lf
    cdef Py_ssize_t i
    while at < end:
        for i in range(3):
            if at + i >= end:
                return C_NEED_DATA
            if at == first:
                if not (c'0' <= at[i] <= c'9') or (i == 0 and not (c'2' <= at[0] <= c'5')):
                    return C_MALFORMED
            elif at[i] != first[i]:
                return C_MALFORMED
        if at + 3 >= end:
            return C_NEED_DATA
        if at[3] == CR:
            if at + 4 >= end:
                return C_NEED_DATA
            return at + 5 - data.at if at[4] == LF else C_MALFORMED
        if at[3] == LF:
            return at + 4 - data.at
        if at[3] != SP and at[3] != c'-':
            return C_MALFORMED
        lf = <const unsigned char *>memchr(at + 4, LF, end - at - 4)
        if lf == NULL:
            return C_NEED_DATA
        if at[3] == SP:
            return lf + 1 - data.at
        at = lf + 1
    return C_NEED_DATA


def scan_reply(data not None, Py_ssize_t start=0):
    """Offset just past the whole reply at *start*; NEED_DATA or MALFORMED otherwise (RFC 5321 §4.2.1)."""
    cdef Py_buffer view
    cdef Span span
    assert start >= 0
    open_span(data, &span, &view)
    try:
        return find_reply_end(span, start)
    finally:
        PyBuffer_Release(&view)


# --- counters that processes share ----------------------------------------------------------------------------------------------------


def shared_add(buffer not None, Py_ssize_t index, int32_t delta):
    """Add *delta* to the int32 at *index* of *buffer*, atomically among processes, and return the sum of all its int32 after that."""
    cdef Py_buffer view
    cdef Py_ssize_t count
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        count = view.len // 4
        if index < 0 or index >= count:
            raise IndexError("no such counter")
        return engine_add_and_sum(<int32_t *>view.buf, count, index, delta)
    finally:
        PyBuffer_Release(&view)
