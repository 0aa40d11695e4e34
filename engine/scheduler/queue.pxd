cdef class Queue:
    cdef readonly object number
    cdef readonly str name
    cdef readonly str domain
    cdef readonly str vmta
    cdef public object settings
    cdef public list window
    cdef public set in_flight
    cdef public bytes frontier
    cdef public long long skipped_ms
    cdef public bint more
    cdef public Py_ssize_t open
    cdef public Py_ssize_t connecting
    cdef public Py_ssize_t failures
    cdef public long long hold_until_ms
    cdef public str held_by
    cdef public str waits_for
    cdef public long long waits_since_ms
    cdef public object doom
    cdef public bytes scan
    cdef public Py_ssize_t scan_spared
    cdef public long long scan_earliest_ms

    cpdef stopped_by(self, str limit, long long now_ms)
