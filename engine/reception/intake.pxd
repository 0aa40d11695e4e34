cdef class Envelope:
    cdef public str sender
    cdef public str ret
    cdef public str env_id
    cdef public bytes results
    cdef public set given
    cdef public dict recipients
    cdef public int needs
    cdef public bint notify_sender
    cdef public Py_ssize_t held_bytes

    cpdef add(self, str given, admitted, int notify, str orcpt, bint dsn_for_relayed)


cdef class Intake:
    cdef object _reception
    cdef object _origin
    cdef Envelope _envelope
    cdef object _content
    cdef object _large
    cdef object _letter
    cdef bytes _id
    cdef Py_ssize_t _size_bytes
    cdef bint _eight_bit
    cdef str _choice
    cdef object _answered
    cdef object _work
    cdef object _found

    cpdef write(self, bytes chunk)
    cpdef end(self, answered)
    cpdef abort(self)
    cpdef give_up(self)
    cdef _examine(self, bytes content)
    cdef _examine_more(self, bytes content, bint headed)
    cdef _take_in(self, pieces)
    cdef _spare(self)
    cdef _begin_large(self)
    cdef _stream(self, pieces)
    cdef _submit(self, body)
    cdef tuple _recipients(self, now_ms)
    cdef bytes _prefix(self, str shown_id, str virtual_mta, now_ms)
    cdef _answer(self, answer)
    cdef _not_stored(self, fault)
