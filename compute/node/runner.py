"""Fetches this host's calls, runs them, and answers until the answer is taken.

The doorbell only wakes it; so does its own sweep. What is to be done comes from nodeapi alone, so a lost, doubled, late
or forged message changes nothing. One call per target at a time: a newer order waits for the older one's end, which
cannot take effect after it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from compute.node.client import ApiRefused, ApiUnavailable
from compute.node.journal import Journal, StaleToken
from compute.wire import Call, CallAnswer, CallError, WireError

log = logging.getLogger(__name__)
CALLS_AT_ONCE = 5


class Executor(Protocol):
    """Who runs a call: the hypervisor process, or a fake host in tests and fleets."""

    def run(self, call: Call) -> CallAnswer: ...


class Api(Protocol):
    """The part of nodeapi that the runner needs."""

    def fetch(self, *, limit: int, in_hand: list[str]) -> list[Call]: ...

    def answer(self, answer: CallAnswer) -> None: ...


class Runner:
    """`run` in a thread of its own until `stop`. `on_finished` is called after each call, whatever its end."""

    def __init__(
        self,
        api: Api,
        journal: Journal,
        executor: Executor,
        *,
        sweep_seconds: float = 10.0,
        on_finished: Callable[[], None],
    ) -> None:
        self._api = api
        self._journal = journal
        self._executor = executor
        self._on_finished = on_finished
        self.sweep_seconds = sweep_seconds
        self._wake = threading.Event()
        self._stopping = False
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Call]] = defaultdict(deque)
        self._in_hand: dict[str, Call] = {}
        self._cancelled: set[str] = set()
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="call")

    def wake(self) -> None:
        """Look for work now. Cheap; may be called from any thread, any number of times."""
        self._wake.set()

    def in_hand(self) -> tuple[str, ...]:
        """Return the ids of calls that were fetched and not answered yet: naming them renews their leases."""
        with self._lock:
            return tuple(self._in_hand)

    def cancel(self, call_ids: tuple[str, ...]) -> None:
        """Drop calls that have not begun. One that runs goes on: its answer will be refused as superseded."""
        with self._lock:
            self._cancelled |= set(call_ids) & set(self._in_hand)

    def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._deliver_old()
                more = self._fetch()
            except ApiUnavailable as error:
                log.warning("the control plane does not answer: %s", error)
                more = False
            except ApiRefused as error:
                log.error("the control plane refuses this host: %s", error)
                more = False
            except WireError as error:
                log.error("a call could not be read: %s", error)
                more = False
            if not more:
                self._wake.wait(self.sweep_seconds)

    def stop(self, timeout: float = 10.0) -> None:
        """Fetch no more; wait for the calls in hand. What does not end in time is finished by its next sending."""
        self._stopping = True
        self._wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        waiter = threading.Event()
        for _ in range(int(timeout * 10)):
            if not self.in_hand():
                return
            waiter.wait(0.1)

    def _fetch(self) -> bool:
        room = 2 * CALLS_AT_ONCE - len(self.in_hand())
        if room <= 0:
            return False
        calls = self._api.fetch(limit=room, in_hand=list(self.in_hand()))
        for call in calls:
            self._accept(call)
        return len(calls) == room

    def _accept(self, call: Call) -> None:
        with self._lock:
            if call.id in self._in_hand:
                return
            self._in_hand[call.id] = call
            queue = self._queues[call.target_id]
            queue.append(call)
            first = len(queue) == 1
        if first:
            self._submit(call.target_id)

    def _submit(self, target_id: str) -> None:
        try:
            self._pool.submit(self._work, target_id)
        except RuntimeError:
            # Shutting down: the call's lease runs out and it is sent again.
            return

    def _work(self, target_id: str) -> None:
        with self._lock:
            call = self._queues[target_id][0]
            dropped = call.id in self._cancelled
        try:
            if not dropped:
                self._finish(self._answer(call))
        except Exception:
            log.exception("call %s (%s) could not be carried out", call.id, call.method)
        finally:
            with self._lock:
                self._in_hand.pop(call.id, None)
                self._cancelled.discard(call.id)
                queue = self._queues[target_id]
                queue.popleft()
                more = bool(queue)
                if not more:
                    del self._queues[target_id]
            if more:
                self._submit(target_id)
            # The next step of the same operation is usually there by the time this answer was taken.
            self._wake.set()

    def _answer(self, call: Call) -> CallAnswer:
        try:
            known = self._journal.begin(call)
        except StaleToken as error:
            return CallAnswer(call.id, call.token, "never", error=CallError("stale_token", str(error)))
        if known is not None and known.token == call.token:
            return known
        answer = self._executor.run(call)
        self._journal.finish(answer)
        return answer

    def _finish(self, answer: CallAnswer) -> None:
        self._deliver(answer)
        self._on_finished()

    def _deliver_old(self) -> None:
        for answer in self._journal.undelivered():
            if answer.call_id not in self.in_hand() and not self._deliver(answer):
                return

    def _deliver(self, answer: CallAnswer) -> bool:
        try:
            self._api.answer(answer)
        except ApiUnavailable as error:
            log.warning("the answer to %s waits in the journal: %s", answer.call_id, error)
            return False
        except ApiRefused as error:
            # Superseded, or not ours any more: nobody waits for it.
            log.info("the answer to %s is not wanted: %s", answer.call_id, error)
        self._journal.delivered(answer.call_id)
        return True
