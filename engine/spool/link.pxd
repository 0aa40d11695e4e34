cimport cython

cdef class _Pending:
    cdef readonly bytes data
    cdef readonly object done


cdef class SpoolLink:
    cdef public object epoch
    cdef readonly object shard
    cdef readonly object stamp_ms
    cdef readonly Py_ssize_t pending
    cdef readonly Py_ssize_t pending_bytes
    cdef readonly bint connected
    cdef readonly object lost
    cdef public object on_abandoned
    cdef str _path
    cdef object _hello
    cdef public object _on_announce
    cdef object _on_lost
    cdef object _loop
    cdef object _unanswered
    cdef long long _first
    cdef list _unsent
    cdef bint _flush_due
    cdef object _counter
    cdef bytes _prefix
    cdef object _transport
    cdef object _welcomed
    cdef object _resuming
    cdef list _drained
    cdef bint _closed
    cdef object __weakref__

    cpdef bytes new_id(self)

    @cython.locals(data=bytes)
    cpdef submit(self, operation, done)

    cdef bytes _frames(self, list operations)
    cpdef _hear(self, bytes data)
    cdef _welcome(self, welcome)
    cdef _announce(self, list numbers, stamp_ms)

    @cython.locals(pending=_Pending, number=cython.longlong)
    cdef _acknowledge(self, long long upto, list refused)

    cpdef _fault(self, error)
    cpdef _disconnected(self, protocol, error)
