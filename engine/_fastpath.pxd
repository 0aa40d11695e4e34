"""C signatures of the compiled loops over bytes."""

cdef struct Span:
    const unsigned char *at
    Py_ssize_t size


cdef enum:
    # what a scan answers in place of an offset
    C_NEED_DATA = -1
    C_BARE_EOL = -2
    C_MALFORMED = -3

cdef enum:
    # states of scan_body: what the last bytes were
    LINE_START = 0      # CRLF, or nothing yet
    IN_LINE = 1
    AFTER_CR = 2
    AFTER_DOT = 3       # a dot at a line start
    AFTER_DOT_CR = 4
    LENIENT = 8         # flag: a bare CR or LF was reported, more of them are passed over

cdef Py_ssize_t find_line_end(Span data, Py_ssize_t start) noexcept nogil
cdef Py_ssize_t find_body_end(Span data, Py_ssize_t start, int *state) noexcept nogil
cdef Py_ssize_t find_reply_end(Span data, Py_ssize_t start) noexcept nogil
cdef Py_ssize_t find_crlf(Span data, Py_ssize_t start) noexcept nogil
cdef Py_ssize_t count_dots(Span data) noexcept nogil
cdef Py_ssize_t path_end(const unsigned char *at, Py_ssize_t size) noexcept nogil
