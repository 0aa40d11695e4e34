cimport cython

cdef class Ledger:
    cdef readonly object exported
    cdef public object next_epoch
    cdef readonly object next_outbox
    cdef readonly object next_queue
    cdef readonly object outbox_first
    cdef readonly dict queues
    cdef public object shard
    cdef readonly object stamp_ms


cdef class Changes:
    cdef readonly object stamp_ms
    cdef readonly dict announced
    cdef readonly list unlink
    cdef readonly list records
    cdef readonly Py_ssize_t accepted
    cdef public bint stamped
    cdef object _txn
    cdef object _tables
    cdef Ledger _ledger
    cdef dict _messages
    cdef dict _due
    cdef dict _closed
    cdef dict _segments
    cdef dict _queues
    cdef list _new_queues
    cdef object _next_queue
    cdef object _next_epoch
    cdef object _exported
    cdef object _outbox_first
    cdef dict _state

    cpdef apply(self, operation, epoch, dict problems)

    @cython.locals(identity=bytes, recipients=list)
    cdef _problem(self, accept, epoch, dict problems)

    @cython.locals(identity=bytes, recipients=list, key=bytes, numbers=dict, row=list, index=Py_ssize_t)
    cdef _accept(self, accept)

    @cython.locals(due=dict, key=bytes, message=bytes, present=bint)
    cdef _settle(self, settle, epoch, dict problems)

    cdef _seal(self, seal, epoch)
    cdef _export(self, exported)
    cdef _move(self, move, epoch, dict problems)
    cpdef finish(self)
    cdef _queue(self, str name)
    cdef bint _is_stored(self, bytes identity) except -1
    cdef list _segment(self, tuple key)

    @cython.locals(row=list)
    cdef _close_messages(self)

    cdef _write_segments(self)
