cdef class ClientConnection:
    cdef str _ehlo_name
    cdef bint _ignore_pipelining
    cdef bint _ignore_8bitmime
    cdef bint _ignore_dsn
    cdef bint _ignore_chunking
    cdef readonly bint chunking
    cdef readonly bint by_chunks
    cdef Py_ssize_t _chunks_owed
    cdef str _tls
    cdef readonly bint secure
    cdef bint _pipelining
    cdef readonly object stage
    cdef readonly object extensions
    cdef readonly bint masked
    cdef bytes _held
    cdef readonly bint progressed
    cdef list _out
    cdef list _events
    cdef object _fault
    cdef bint _dirty
    cdef object _transaction
    cdef list _commands
    cdef Py_ssize_t _next
    cdef bint _mail_stands
    cdef list _outcomes

    cpdef list receive(self, bytes data)
    cpdef bytes to_send(self)
    cpdef start(self, transaction)
    cpdef secured(self)
    cpdef bytes end_of_body(self)
    cpdef quit(self)
    cpdef lost(self)
    cdef bint _may_come(self, bytes code)
    cdef str _take(self, int code, bytes data, Py_ssize_t at, Py_ssize_t end)
    cdef _take_outside(self, stage, int code, bytes data, Py_ssize_t at, Py_ssize_t end)
    cdef str _starttls_answered(self, int code, bytes data, Py_ssize_t at, Py_ssize_t end)
    cdef _ready(self, refused)
    cdef _hello(self, str verb, stage)
    cdef _chunk_answered(self, int code, reply)
    cdef _advance(self)
    cdef _recipients_answered(self)
    cdef _mail_refused(self, reply)
    cdef str _data_answered(self, int code, bytes data, Py_ssize_t at, Py_ssize_t end)
    cdef _finish(self, reply, stage)
    cdef _over(self, reply)
    cdef list _breach(self, str what, bytes data)
    cdef _over_size(self, size_bytes)
    cdef list _write(self, transaction)


cdef _read(bytes data, Py_ssize_t at, Py_ssize_t end)
