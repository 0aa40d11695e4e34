from engine.smtp.server cimport ServerConnection
from engine.listener.session cimport Session

cdef class Connection:
    cdef object _listener
    cdef object _socket
    cdef readonly object _transport
    cdef readonly ServerConnection _core
    cdef readonly Session _session
    cdef bint _ahead
    cdef bint _choked
    cdef bint _ended
    cdef double _opened_s
    cdef double _active_s
    cdef double _shakes_s
    cdef double _closed_s
    cdef object _peer
    cdef int _peer_port
    cdef public bint counted
    cdef public bint waits
    cdef public str ip
    cdef public str group
    cdef object __weakref__

    cpdef connection_made(self, transport)
    cpdef admit(self)
    cdef _greet(self, object transport)
    cpdef data_received(self, bytes data)
    cpdef connection_lost(self, exc)
    cdef _shake(self, object transport)
    cpdef secured(self, layer)
    cpdef not_secured(self, str why)
    cdef _leave_with(self, bytes last, ServerConnection core, object transport)
    cdef _end(self, object transport, bytes last=*)
    cdef _close(self, object last)
