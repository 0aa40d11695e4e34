from engine.delivery.connection cimport Connection
from engine.delivery.settling cimport Settler
from engine.scheduler.queue cimport Queue
from engine.scheduler.scheduler cimport Scheduler


cdef class Slot:
    cdef public Settler settler
    cdef public object backlog
    cdef readonly Scheduler scheduler
    cdef object _reader
    cdef object _sources
    cdef object _total_out
    cdef object _log
    cdef dict _fields
    cdef bint _bounce_corrupted
    cdef readonly object _pool
    cdef dict _connections
    cdef dict _openings
    cdef object _streams
    cdef readonly object _opener
    cdef bint _pump_planned
    cdef bint _draining
    cdef bint _stopping
    cdef long long _looked_ms

    cdef long long _now_ms(self) except? -1
    cdef _serve(self, Queue queue, long long now_ms)
    cdef bint _connect(self, Queue queue, long long now_ms) except? -1
    cdef _without_source(self, Queue queue, long long now_ms)
    cdef _adopt(self, Connection connection, Queue queue, long long now_ms)
    cdef _nowhere(self, Queue queue, verdict, long long now_ms)
    cdef _greeting_refused(self, Queue queue, failed, reply, long long now_ms)
    cdef _send_next(self, Connection connection, long long now_ms)
    cpdef body_of(self, Connection connection)
    cpdef watch(self, Connection connection)
    cpdef unwatch(self, Connection connection)
    cpdef opened(self, Connection connection)
    cpdef idle(self, Connection connection)
    cpdef idle_too_long(self, Connection connection)
    cpdef closed(self, Connection connection)
    cdef _discard(self, Queue queue, long long now_ms)
