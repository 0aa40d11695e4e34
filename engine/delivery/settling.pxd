cdef class Settler:
    cdef object _scheduler
    cdef object _link
    cdef object _reader
    cdef object _reporter
    cdef object _log
    cdef object _room
    cdef readonly object events
    cdef readonly long long sent_messages
    cdef readonly long long sent_recipients
    cdef readonly long long sent_bytes
    cdef Py_ssize_t _buried

    cpdef message(self, queue, bytes message_id, rows, long long now_ms)
    cdef Py_ssize_t _count(self, results, peer) except -1
    cdef _log_lines(self, queue, str shown, results, peer, long long now_ms)
    cpdef put_aside(self, queue, bytes message_id, rows, str why, long long now_ms)
    cpdef queue_failed(self, queue, str status, str why, peer, long long now_ms)
    cpdef bint bury(self, long long now_ms)
