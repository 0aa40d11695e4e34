from engine.reception.intake cimport Envelope, Intake
cdef class Session:
    cdef object _answer
    cdef object _early
    cdef bint _ending
    cdef Envelope _envelope
    cdef object _unchecked
    cdef str _host_name
    cdef Intake _intake
    cdef str _ip
    cdef object _listener
    cdef object _local_ip
    cdef object _origin
    cdef bint _barred
    cdef bint _extended
    cdef str _hello
    cdef object _place
    cdef public str user
    cdef public object late
    cdef public double late_s
    cdef public object client
    cdef public double data_since_s
    cdef public object tls
    cpdef starttls(self)
    cpdef secured(self, layer)
    cpdef hello(self, str name, bint extended)
    cpdef mail(self, str sender, parameters)
    cpdef rcpt(self, str address, parameters)
    cpdef no_address(self, bytes argument)
    cdef _take_misaddressed(self, str text, parameters)
    cpdef data(self)
    cpdef body(self, bytes chunk)
    cpdef end(self)
    cdef _introduce(self)
    cpdef nonce(self)
    cpdef authenticate(self, question)
    cpdef authenticated(self, str user, str mechanism)
    cpdef denied(self, str user, str mechanism)
    cpdef reset(self)
    cpdef give_up(self)
    cdef _forget(self)
