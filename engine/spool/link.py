"""A worker's connection to the spool process: a numbered stream of operations, resumed where it broke off when the spool process restarts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.clock import monotonic_s
from engine.errors import EngineError, SpoolError
from engine.mail import message_id
from engine.spool import wire
from engine.spool.ops import Nothing, Operation

RESUME_WITHIN_S = 60.0
_ANSWER_WITHIN_S = 20.0  # a spool process that starts may have much to look at
_RETRY_S = 0.1

Done = Callable[[str | None], None]
_encode = msgspec.msgpack.Encoder().encode
_NOTHING = _encode(Nothing())


class _Pending:
    """One operation that is not answered yet."""

    __slots__ = ("data", "done")

    def __init__(self, data: bytes, done: Done | None) -> None:
        self.data = data
        self.done = done  # None: it was told already


class SpoolLink:
    """One per worker process, on its running event loop; made by `connect`.

    `on_announce(numbers, stamp_ms)`: these queues got new mail that is due up to *stamp_ms*; an empty list means: look again at everything (for
    accounting: at the outbox).  `on_abandoned(epoch, segment)`: see SegmentWriter.  `on_lost`: the spool process is gone, or our epoch is; called
    once, after which every operation is answered with a refusal, though those that were under way may have been applied.
    """

    def __init__(
        self,
        path: str,
        hello: wire.Hello,
        on_announce: Callable[[list[int], int], None] | None,
        on_lost: Callable[[Exception], None],
    ) -> None:
        self.epoch = 0
        self.shard = 0
        self.stamp_ms = 0  # new mail that we know of is due up to this
        self.pending = 0  # operations not answered yet
        self.pending_bytes = 0
        self.connected = False
        self.lost: Exception | None = None
        self.on_abandoned: Callable[[int, int], None] | None = None
        self._path = path
        self._hello = hello
        self._on_announce = on_announce
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._unanswered: deque[_Pending] = deque()
        self._first = 1  # number of the first of them
        self._unsent: list[bytes] = []
        self._flush_due = False
        self._counter = 0
        self._prefix = b""
        self._transport: asyncio.Transport | None = None
        self._welcomed: asyncio.Future[wire.Welcome] | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._closed = False

    @classmethod
    async def connect(
        cls,
        path: str,
        *,
        role: str,
        index: int,
        virtual_mtas: Sequence[str] = (),
        fallback: bool = False,
        on_announce: Callable[[list[int], int], None] | None = None,
        on_lost: Callable[[Exception], None],
        timeout_s: float = RESUME_WITHIN_S,
    ) -> SpoolLink:
        """A link with an epoch of its own; SpoolError if the spool process does not answer within *timeout_s* or rejects us."""
        link = cls(path, wire.Hello(role, index, list(virtual_mtas), fallback), on_announce, on_lost)
        try:
            await link._join(monotonic_s() + timeout_s, 0)
        except BaseException:
            link.close()
            raise
        return link

    @property
    def answered(self) -> int:
        """All operations up to this number are answered."""
        return self._first - 1

    def new_id(self) -> bytes:
        """A message id that nobody ever had."""
        self._counter = counter = self._counter + 1
        return self._prefix + counter.to_bytes(6, "big")

    def submit(self, operation: Operation, done: Done) -> None:
        """Send *operation* at the end of this turn of the loop; done(None) once it is durable, done(reason) if it was refused.

        Never raises, and never calls *done* before it returns.
        """
        if self.lost is not None or self._closed:
            self._loop.call_soon(done, str(self.lost or "the link to the spool process is closed"))
            return
        try:
            data = _encode(operation)
        except (TypeError, ValueError, OverflowError) as error:  # a lone surrogate, a number that is too large
            self._loop.call_soon(done, f"cannot be stored: {error}")
            return
        self._unanswered.append(_Pending(data, done))
        self._unsent.append(data)
        self.pending += 1
        self.pending_bytes += len(data)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def drain(self, timeout_s: float = RESUME_WITHIN_S) -> None:
        """Return when everything submitted is answered; SpoolError if that takes longer than *timeout_s* or the link is lost."""
        if self.lost is not None:
            raise SpoolError(f"spool process lost: {self.lost}")
        if not self._unanswered:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._drained.append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            raise SpoolError(f"the spool process left {self.pending} operations unanswered for {timeout_s:.0f} s") from None

    def close(self) -> None:
        """End the epoch; what is not answered is answered with a refusal.  Drain first."""
        self._closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        if self._unsent and self.connected:
            self._flush()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._refuse_all("the link to the spool process is closed")

    # --- sending -----------------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        if not self.connected or self._transport is None:
            return  # all of it is sent once we have resumed
        unsent, self._unsent = self._unsent, []
        if unsent:
            self._transport.write(self._frames(unsent))

    def _frames(self, operations: list[bytes]) -> bytes:
        answered = self._first - 1
        if len(operations) <= wire.BATCH_OPERATIONS and sum(map(len, operations)) <= wire.BATCH_BYTES:
            return wire.batch_frame(answered, operations)
        frames: list[bytes] = []
        start = size = 0
        for index, operation in enumerate(operations):
            if index > start and (index - start == wire.BATCH_OPERATIONS or size + len(operation) > wire.BATCH_BYTES):
                frames.append(wire.batch_frame(answered, operations[start:index]))
                start = index
                size = 0
            size += len(operation)
        frames.append(wire.batch_frame(answered, operations[start:]))
        return b"".join(frames)

    # --- hearing -----------------------------------------------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        answer = wire.decode_answer(data)
        if isinstance(answer, wire.Ack):
            self._acknowledge(answer.upto, answer.refused)
        elif isinstance(answer, wire.Announce):
            self.stamp_ms = max(self.stamp_ms, answer.stamp_ms)
            self._announce(answer.numbers, answer.stamp_ms)
        elif isinstance(answer, wire.Abandoned):
            if self.on_abandoned is not None:
                self.on_abandoned(answer.epoch, answer.segment)
        elif self._welcomed is not None and not self._welcomed.done():
            if isinstance(answer, wire.Welcome):
                self._welcome(answer)
                self._welcomed.set_result(answer)
            else:
                self._welcomed.set_exception(_Rejection(answer.reason))

    def _welcome(self, welcome: wire.Welcome) -> None:
        resumed = bool(self.epoch)
        self.epoch = welcome.epoch
        self.shard = welcome.shard
        self.stamp_ms = max(self.stamp_ms, welcome.stamp_ms)
        self._prefix = message_id.pack(welcome.shard, welcome.epoch, 0)[:6]
        self.connected = True
        self._acknowledge(welcome.last, welcome.refused)
        self._unsent = []
        if self._unanswered and self._transport is not None:
            self._transport.write(self._frames([pending.data for pending in self._unanswered]))
        if resumed:
            self._announce([], self.stamp_ms)

    def _announce(self, numbers: list[int], stamp_ms: int) -> None:
        if self._on_announce is not None:
            self._guard(self._on_announce, numbers, stamp_ms)

    def _acknowledge(self, upto: int, refused: list[tuple[int, str]]) -> None:
        reasons: dict[int, str] = {}
        for number, reason in refused:
            if number <= upto:
                reasons[number] = reason
            elif number - self._first < len(self._unanswered):  # refused before its turn: its place stays
                pending = self._unanswered[number - self._first]
                done, pending.done = pending.done, None
                pending.data = _NOTHING
                if done is not None:
                    self._guard(done, reason)
        unanswered = self._unanswered
        while self._first <= upto and unanswered:
            pending = unanswered.popleft()
            number = self._first
            self._first = number + 1
            self.pending -= 1
            self.pending_bytes -= len(pending.data)
            done = pending.done
            if done is not None:
                try:
                    done(reasons.get(number) if reasons else None)
                except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the loop's handler
                    self._fault(error)
        if not unanswered:
            self.pending_bytes = 0
            self._wake(None)

    def _guard(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the loop's handler
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        """A callback's fault must not cost the others their answers."""
        self._loop.call_exception_handler({"message": "callback of SpoolLink failed", "exception": error})

    def _wake(self, error: Exception | None) -> None:
        drained, self._drained = self._drained, []
        for waiter in drained:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)

    # --- joining and losing --------------------------------------------------------------------------------------------------------------

    async def _join(self, deadline_s: float, resume_epoch: int) -> None:
        """Connect and be welcomed, as often as it takes until *deadline_s*; SpoolError after that or when we are rejected."""
        problem: BaseException | None = None
        while (left_s := deadline_s - monotonic_s()) > 0:
            try:
                await asyncio.wait_for(self._join_once(resume_epoch), min(left_s, _ANSWER_WITHIN_S))
                return
            except _Rejection:
                self._drop()
                raise
            except (OSError, TimeoutError, EngineError) as error:
                problem = error
                self._drop()
            await asyncio.sleep(min(_RETRY_S, max(deadline_s - monotonic_s(), 0)))
        raise SpoolError(f"the spool process at {self._path} does not answer: {problem or 'no time left'}")

    async def _join_once(self, resume_epoch: int) -> None:
        self._welcomed = self._loop.create_future()
        transport, _ = await self._loop.create_unix_connection(lambda: _Protocol(self), self._path)
        self._transport = transport
        transport.write(wire.frame(msgspec.structs.replace(self._hello, resume_epoch=resume_epoch)))
        await self._welcomed

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        self.connected = False
        if transport is not None:
            transport.abort()

    def _disconnected(self, protocol: _Protocol, error: Exception | None) -> None:
        if self._closed or protocol.transport is not self._transport:
            return
        self._transport = None
        was_connected, self.connected = self.connected, False
        if self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_exception(ConnectionResetError("the spool process closed the connection"))
        elif was_connected and self._resuming is None:
            self._resuming = self._loop.create_task(self._resume())

    async def _resume(self) -> None:
        deadline_s = monotonic_s() + RESUME_WITHIN_S
        try:
            while not self.connected:
                await self._join(deadline_s, self.epoch)
        except EngineError as error:
            self._lose(error)
        finally:
            self._resuming = None

    def _lose(self, error: Exception) -> None:
        self.lost = error
        self._drop()
        self._refuse_all(f"spool process lost: {error}")
        self._guard(self._on_lost, error)

    def _refuse_all(self, reason: str) -> None:
        unanswered, self._unanswered = self._unanswered, deque()
        self._unsent = []
        self._first += len(unanswered)
        self.pending = self.pending_bytes = 0
        for pending in unanswered:
            if pending.done is not None:
                self._guard(pending.done, reason)
        self._wake(SpoolError(reason) if unanswered else None)


class _Rejection(SpoolError):
    """The spool process will not have us: no use in asking again."""


class _Protocol(asyncio.Protocol):
    def __init__(self, link: SpoolLink) -> None:
        self.transport: Any = None
        self._link = link
        self._inbox = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        try:
            for frame in wire.take_frames(self._inbox):
                self._link._hear(frame)
        except (EngineError, msgspec.DecodeError) as error:
            self._link._fault(error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link._disconnected(self, exc)
