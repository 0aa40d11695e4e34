cimport cython

cdef class ServerConnection:
    cdef object _handler
    cdef object _limits
    cdef public object phase
    cdef public bint quit
    cdef public bint secure
    cdef object _auth
    cdef bint _verifying
    cdef bint _judging
    cdef readonly bytes _held
    cdef readonly bint _overlong
    cdef bint _hello
    cdef bint _mail
    cdef Py_ssize_t _recipients
    cdef bint _too_many
    cdef int _needs
    cdef int _scan
    cdef object _mender
    cdef Py_ssize_t _size
    cdef object _refusal
    cdef readonly bint _chunked
    cdef readonly long long _chunk_left
    cdef bint _last_chunk
    cdef bytes _chunk_reply
    cdef object _text
    cdef Py_ssize_t _errors_left
    cdef Py_ssize_t _commands_left

    cpdef bytes open(self, object refusal=*)
    cpdef bytes receive(self, bytes data)
    cpdef bytes answered(self, object reply)
    cpdef secured(self, object limits)
    cdef bytes _advance(self, bytes data, list out)
    cpdef _read_part(self, bytes data, Py_ssize_t at, bint bare, list out)
    cpdef bytes _command(self, bytes verb, bytes argument, Py_ssize_t size_bytes)
    cdef Py_ssize_t _read_body(self, bytes data, Py_ssize_t at, list out)
    cpdef Py_ssize_t _read_chunk(self, bytes data, Py_ssize_t at, list out)
    cdef bytes _end_of_chunk(self)
    cpdef _take(self, bytes chunk)
    cdef _refuse(self, object reply)
    cpdef bytes _conclude(self, object reply)
    cdef bytes _begin(self, object reply)
    cpdef bytes _judged(self, object reply)
    cdef _void(self)
    cdef Py_ssize_t _read_response(self, bytes data, Py_ssize_t at, list out)
    cpdef bytes _authentication(self, object outcome)
    cdef bytes _verified(self, object answer)
    cdef bytes _close(self, bytes reply)
    cdef bytes _error(self, bytes reply)
    cdef bytes _transient(self, bytes reply)
    cdef bytes _refused(self, object reply)
    cdef bytes _begin_content(self)
    cdef bytes _greet(self, bytes argument, bint extended)
