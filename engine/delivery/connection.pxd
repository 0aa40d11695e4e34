from engine.scheduler.queue cimport Queue
from engine.smtp.client cimport ClientConnection


cdef class Connection:
    cdef readonly object owner
    cdef public Queue queue
    cdef readonly object route
    cdef readonly str local_ip
    cdef readonly ClientConnection client
    cdef public object transaction
    cdef readonly object message
    cdef readonly str esmtp
    cdef readonly Py_ssize_t mail_max
    cdef readonly Py_ssize_t rcpt_max
    cdef readonly Py_ssize_t transactions
    cdef public Py_ssize_t refusals
    cdef readonly object opening
    cdef readonly double now_s
    cdef readonly double began_s
    cdef readonly double deadline_s
    cdef public bint is_idle
    cdef public object trace
    cdef readonly object tls
    cdef object _encryption
    cdef readonly bint timed_out
    cdef readonly bint our_doing
    cdef object _state
    cdef object _transport
    cdef object _chunks
    cdef bint _may_write
    cdef bint _dot_waits

    cpdef send(self, transaction, message)
    cpdef quit(self)
    cpdef abort(self, str why, bint our_doing=*)
    cpdef check(self, double now_s)
    cpdef connection_made(self, transport)
    cpdef data_received(self, bytes data)
    cdef _opened(self, event)
    cdef _refused(self, event)
    cdef _secure(self, event)
    cpdef secured(self, layer)
    cpdef not_secured(self, str why)
    cdef _finish(self, event)
    cdef _begin_body(self)
    cdef _begin_chunks(self, body)
    cdef _send_chunks(self, chunks)
    cdef _write_chunk(self, bytes content, bint last)
    cdef _write_dot(self)
    cdef _unreadable(self, error)
    cdef _flush(self)
    cdef _set_deadline(self)
    cdef _gone(self, str why)
