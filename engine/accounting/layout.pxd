cimport cython


@cython.locals(line=str, value=str)
cpdef bytes csv_line(values)


cdef class Layout:
    cdef readonly bytes header
    cdef readonly tuple types
    cdef object _mask
    cdef object _wants
    cdef dict _columns

    cpdef bytes line(self, record)
