# cython: language_level=3
"""Streams in C: `_stream_reference.py` says what each name means; the tests run both.

Sockets are bare descriptors here: no socket object, no argument parsing, one shared receive buffer.
"""

import socket as _socket

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close as c_close

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
        EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int shutdown(int fd, int how)
    enum:
        AF_INET, AF_INET6, SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, SHUT_WR

cdef extern from "netinet/in.h" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t ntohs(uint16_t value)

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)


cdef enum:
    RECEIVE_BYTES = 65536
    EVENTS_AT_ONCE = 128
    ACCEPTS_AT_ONCE = 64
    HIGH_WATER_BYTES = 65536
    PARTS = 16


ACCEPT_AGAIN_S = 0.1


cdef object _error(int number):
    """The OSError of *number*."""
    import os

    return OSError(number, os.strerror(number))


cdef object _peername(sockaddr_storage *address):
    """As socket.accept gives it."""
    cdef char text[64]
    cdef sockaddr_in *four = <sockaddr_in *>address
    cdef sockaddr_in6 *six = <sockaddr_in6 *>address
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, text, 64)
        return text.decode("ascii"), ntohs(four.sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &six.sin6_addr, text, 64)
        return text.decode("ascii"), ntohs(six.sin6_port), six.sin6_flowinfo, six.sin6_scope_id
    return None


cdef class Streams:
    """All streams of one event loop."""

    cdef readonly object loop
    cdef int _epoll
    cdef dict _handlers
    cdef list _ended
    cdef bint _in_turn
    cdef uint64_t _round
    cdef char *_buffer

    def __cinit__(self):
        self._epoll = -1
        self._buffer = NULL

    def __init__(self, loop):
        self.loop = loop
        self._handlers = {}
        self._ended = []
        self._buffer = <char *>malloc(RECEIVE_BYTES)
        if self._buffer == NULL:
            raise MemoryError
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise _error(errno)
        loop.add_reader(self._epoll, self._turn)

    def __dealloc__(self):
        if self._epoll >= 0:
            c_close(self._epoll)
        free(self._buffer)

    def close(self):
        """Serve nothing any more."""
        if self._epoll >= 0:
            self.loop.remove_reader(self._epoll)
            c_close(self._epoll)
            self._epoll = -1
            self._handlers.clear()

    def open(self, sock, peername, protocol):
        """A transport over *sock*, which is the stream's from now on."""
        return self._open(sock.detach(), peername, protocol)

    cdef Stream _open(self, int fd, object peername, object protocol):
        cdef Stream stream = Stream.__new__(Stream)
        stream._streams = self
        stream.fd = fd
        stream.peername = peername
        stream.protocol = protocol
        stream._high = HIGH_WATER_BYTES
        stream._mask = EPOLLIN
        stream._born = self._round
        self._handlers[fd] = stream
        try:
            self._control(EPOLL_CTL_ADD, fd, EPOLLIN)
        except OSError:
            del self._handlers[fd]
            stream.fd = -1
            c_close(fd)
            raise
        try:
            protocol.connection_made(stream)
        except Exception:
            stream.abort()
            raise
        return stream

    def listen(self, sock, make_protocol, on_error):
        """Accept connections on *sock*; returns what ends that."""
        cdef _Accepting accepting = _Accepting.__new__(_Accepting)
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        accepting.sock = sock
        accepting.fd = sock.fileno()
        accepting.streams = self
        accepting.make_protocol = make_protocol
        accepting.on_error = on_error
        self._handlers[accepting.fd] = accepting
        self._control(EPOLL_CTL_ADD, accepting.fd, EPOLLIN)
        return accepting.end

    cdef int _control(self, int operation, int fd, uint32_t mask) except -1:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = mask
        event.data.fd = fd
        if epoll_ctl(self._epoll, operation, fd, &event) != 0:
            raise _error(errno)
        return 0

    def _turn(self):
        cdef epoll_event events[EVENTS_AT_ONCE]
        cdef int count, i
        cdef object handler
        count = epoll_wait(self._epoll, events, EVENTS_AT_ONCE, 0)
        self._in_turn = True
        self._round += 1
        try:
            for i in range(count):
                handler = self._handlers.get(events[i].data.fd)
                if handler is None:
                    continue
                try:
                    if type(handler) is Stream:
                        if (<Stream>handler)._born != self._round:  # else the event is of a closed one that had its descriptor
                            (<Stream>handler)._ready(events[i].events)
                    else:
                        (<_Accepting>handler)._ready()
                except Exception as error:  # a fault of one protocol must not cost the others their turn
                    self._fault(error, handler)
        finally:
            self._in_turn = False
        self._tell_ended()

    def _tell_ended(self):
        cdef list ended
        while self._ended:
            ended, self._ended = self._ended, []
            for protocol, error in ended:
                try:
                    protocol.connection_lost(error)
                except Exception as fault:
                    self.loop.call_exception_handler({"message": "fault in a protocol", "exception": fault, "protocol": protocol})

    cdef _end(self, object protocol, object error):
        """Have *protocol* told when the present turn is over."""
        self._ended.append((protocol, error))
        if not self._in_turn and len(self._ended) == 1:
            self.loop.call_soon(self._tell_ended)

    def _fault(self, error, handler):
        context = {"message": "fault in a protocol", "exception": error}
        if type(handler) is Stream:
            context["protocol"] = handler.protocol
            context["transport"] = handler
            handler.abort()
        self.loop.call_exception_handler(context)


cdef class _Accepting:
    cdef object sock
    cdef int fd
    cdef Streams streams
    cdef object make_protocol
    cdef object on_error

    cdef _ready(self):
        cdef sockaddr_storage address
        cdef socklen_t size
        cdef int fd
        for _ in range(ACCEPTS_AT_ONCE):
            if self.fd < 0:  # ended meanwhile
                return
            size = sizeof(address)
            fd = accept4(self.fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno not in (EAGAIN, EINTR, ECONNABORTED):
                    error = _error(errno)
                    self.streams._control(EPOLL_CTL_MOD, self.fd, 0)  # the socket stays ready: without a pause we would spin
                    self.streams.loop.call_later(ACCEPT_AGAIN_S, self.again)
                    self.on_error(error)
                return
            try:
                protocol = self.make_protocol()
            except Exception:
                c_close(fd)
                raise
            self.streams._open(fd, _peername(&address), protocol)

    def again(self):
        """Accept after the pause that a failure made."""
        if self.fd >= 0 and self.streams._epoll >= 0:
            self.streams._control(EPOLL_CTL_MOD, self.fd, EPOLLIN)

    def end(self):
        """Accept no more."""
        if self.fd >= 0:
            self.streams._control(EPOLL_CTL_DEL, self.fd, 0)
            del self.streams._handlers[self.fd]
            self.fd = -1
            self.sock = None


cdef class Stream:
    """One connected socket."""

    cdef Streams _streams
    cdef readonly int fd
    cdef readonly object peername
    cdef public object protocol
    cdef list _pending
    cdef Py_ssize_t _size
    cdef Py_ssize_t _high
    cdef bint _choked
    cdef bint _closing
    cdef bint _said_all
    cdef uint32_t _mask
    cdef uint64_t _born

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    def get_extra_info(self, name, default=None):
        """`peername` or `sockname`."""
        if name == "peername":
            return self.peername
        if name == "sockname" and self.fd >= 0:
            return _sockname(self.fd)
        return default

    def is_closing(self):
        """Whether the end has begun."""
        return self._closing

    def set_write_buffer_limits(self, high=None, low=None):
        """Pause the protocol over *high* bytes."""
        self._high = HIGH_WATER_BYTES if high is None else high

    def get_write_buffer_size(self):
        """Bytes that the kernel has not taken."""
        return self._size

    def write(self, data):
        """Send *data*, or keep what the kernel does not take."""
        self._write(data, MSG_DONTWAIT | MSG_NOSIGNAL)

    cdef _write(self, object data, int flags):
        cdef Py_buffer view
        cdef ssize_t sent = 0
        cdef Py_ssize_t size
        if self._closing or self._said_all:
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        size = view.len
        if self._pending is None:
            sent = send(self.fd, view.buf, size, flags)
        PyBuffer_Release(&view)
        if sent == size:
            return
        if sent < 0:
            if not _later(errno):
                self._fail(_error(errno))
                return
            sent = 0
        self._keep(memoryview(data)[sent:])

    def writelines(self, list_of_data):
        """Send all of them in one system call, as far as the kernel takes them."""
        cdef tuple parts = tuple(list_of_data)
        cdef iovec vector[PARTS]
        cdef Py_buffer views[PARTS]
        cdef msghdr message
        cdef int count = <int>len(parts), held = 0, i
        cdef ssize_t sent = 0
        cdef Py_ssize_t size
        if count > PARTS:
            self.write(b"".join(parts))
            return
        if self._closing or self._said_all:
            return
        if self._pending is None:
            try:
                for i in range(count):
                    PyObject_GetBuffer(parts[i], &views[i], PyBUF_SIMPLE)
                    held += 1
                    vector[i].iov_base = views[i].buf
                    vector[i].iov_len = views[i].len
                memset(&message, 0, sizeof(message))
                message.msg_iov = vector
                message.msg_iovlen = count
                sent = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            finally:
                for i in range(held):
                    PyBuffer_Release(&views[i])
            if sent < 0:
                if not _later(errno):
                    self._fail(_error(errno))
                    return
                sent = 0
        for part in parts:
            size = len(part)
            if sent >= size:
                sent -= size
            else:
                self._keep(memoryview(part)[sent:])
                sent = 0

    def pause_reading(self):
        """Let what comes wait in the kernel."""
        self._watch(self._mask & ~<uint32_t>EPOLLIN)

    def resume_reading(self):
        """Read again."""
        if not self._closing:
            self._watch(self._mask | EPOLLIN)

    def is_reading(self):
        """Whether it reads."""
        return bool(self._mask & EPOLLIN)

    def can_write_eof(self):
        """Yes."""
        return True

    def write_eof(self):
        """Tell the peer, behind what was written, that nothing more comes."""
        if not self._closing and not self._said_all:
            self._said_all = True
            if self._pending is None:
                shutdown(self.fd, SHUT_WR)

    def close(self):
        """Close once everything that was written is sent; nothing more is read."""
        if self._closing:
            return
        self._closing = True
        if self._pending is None:
            self._release()
            self._streams._end(self.protocol, None)
        else:
            self._watch(EPOLLOUT)

    def finish(self, data):
        """`write` and `close`, in one segment where the kernel takes all of it."""
        if data:
            self._write(data, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)
        self.close()

    def abort(self):
        """Close now."""
        self._fail(None)

    cdef _ready(self, uint32_t mask):
        if mask & EPOLLOUT:
            self._send_pending()
        if mask & EPOLLIN and self._mask & EPOLLIN:
            self._receive()
        elif mask & (EPOLLHUP | EPOLLERR) and self.fd >= 0:
            self._fail(ConnectionResetError("connection reset by peer"))

    cdef _receive(self):
        cdef char *buffer = self._streams._buffer
        cdef ssize_t size = recv(self.fd, buffer, RECEIVE_BYTES, MSG_DONTWAIT)
        if size > 0:
            self.protocol.data_received(PyBytes_FromStringAndSize(buffer, size))
        elif size < 0:
            if not _later(errno):
                self._fail(_error(errno))
        elif self.protocol.eof_received():
            self._watch(self._mask & ~<uint32_t>EPOLLIN)
        else:
            self.close()

    cdef _keep(self, object data):
        if self._pending is None:
            self._pending = []
        self._pending.append(data)
        self._size += len(data)
        self._watch(self._mask | EPOLLOUT)
        if self._size > self._high and not self._choked:
            self._choked = True
            self.protocol.pause_writing()

    cdef _send_pending(self):
        cdef Py_buffer view
        cdef ssize_t sent
        while self._pending:
            data = self._pending[0]
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            sent = send(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL)
            PyBuffer_Release(&view)
            if sent < 0:
                if not _later(errno):
                    self._fail(_error(errno))
                return
            self._size -= sent
            if sent < len(data):
                self._pending[0] = data[sent:]
                return
            del self._pending[0]
        self._pending = None
        if self._closing:
            self._release()
            self._streams._end(self.protocol, None)
            return
        self._watch(self._mask & ~<uint32_t>EPOLLOUT)
        if self._said_all:
            shutdown(self.fd, SHUT_WR)
        if self._choked:
            self._choked = False
            self.protocol.resume_writing()

    cdef _watch(self, uint32_t mask):
        if mask != self._mask and self.fd >= 0:
            self._mask = mask
            self._streams._control(EPOLL_CTL_MOD, self.fd, mask)

    cdef _fail(self, object error):
        if self.fd >= 0:
            self._closing = True
            self._release()
            self._streams._end(self.protocol, error)

    cdef _release(self):
        cdef int fd = self.fd
        self.fd = -1
        self._mask = 0
        self._pending = None
        self._size = 0
        self._streams._handlers.pop(fd, None)
        c_close(fd)  # which takes it out of the epoll too


cdef bint _later(int number):
    return number == EAGAIN or number == EINTR


cdef object _sockname(int fd):
    """As socket.getsockname gives it."""
    import os

    cdef object sock = _socket.socket(fileno=os.dup(fd))
    try:
        return sock.getsockname()
    finally:
        sock.close()
