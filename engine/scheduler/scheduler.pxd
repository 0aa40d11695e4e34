from engine.scheduler.queue cimport Queue


cdef class Scheduler:
    cdef object _settings
    cdef object _virtual_mta_limit
    cdef readonly dict queues
    cdef readonly dict held
    cdef readonly object timers
    cdef readonly dict ready
    cdef readonly set settling
    cdef readonly object casualties
    cdef readonly object overdue
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t connecting
    cdef public bint may_expire
    cdef readonly object to_load
    cdef readonly dict _parked
    cdef dict _open_by_virtual_mta
    cdef object _scans
    cdef object _to_scan

    cpdef announce(self, number, long long stamp_ms)
    cpdef wake(self, Queue queue, long long now_ms)
    cdef _want(self, Queue queue)
    cpdef next_load(self, long long now_ms)
    cpdef loaded(self, Queue queue, rows, next_due_ms, bint complete, long long now_ms=*)
    cpdef due_again(self, Queue queue, long long when_ms)
    cpdef shed(self, Queue queue)
    cpdef retire(self, Queue queue)
    cpdef take(self, Queue queue, long long now_ms)
    cdef bint _bury_first(self, Queue queue, long long now_ms)
    cdef _lose(self, Queue queue, row, str status, str diag)
    cpdef condemn(self, Queue queue, long long now_ms)
    cpdef settled(self, Queue queue, keys)
    cpdef acknowledged(self, keys)
    cpdef may_connect(self, Queue queue, long long now_ms)
    cdef _obstacle(self, Queue queue, long long now_ms)
    cpdef park(self, Queue queue, str limit)
    cpdef unpark(self, str limit, Py_ssize_t most=*)
