"""Fetches this host's calls, runs them, and answers until the answer is taken.

The doorbell only wakes it; so does its own sweep. What is to be done comes from nodeapi alone, so a lost, doubled, late
or forged message changes nothing. One call per target at a time: a newer order waits for the older one's end, which
cannot take effect after it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from compute.node.client import ApiRefused, ApiUnavailable, Fetched
from compute.node.journal import Journal, StaleToken
from compute.node.methods import LANES, lane_of
from compute.wire import Call, CallAnswer, CallError

log = logging.getLogger(__name__)
FETCH_LIMIT = 16
IN_HAND_LIMIT = 64  # what waits beyond it waits with the control plane, where it can still be cancelled
GAP_SECONDS = 0.02  # between two fetches: a flood of doorbells becomes at most fifty questions a second
PRUNE_SECONDS = 3600.0
STOP_SECONDS = 8.0
# Nobody waits for the answer any more: superseded, answered already, not this host's, or never to be understood.
_UNWANTED = frozenset({400, 404, 409, 410, 413, 422})


class Executor(Protocol):
    """Who runs a call: the hypervisor process, or a fake host in tests and fleets."""

    def run(self, call: Call) -> CallAnswer: ...


class Api(Protocol):
    """The part of nodeapi that the runner needs."""

    def fetch(self, *, limit: int, in_hand: list[str]) -> Fetched: ...

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
        self._sweep_seconds = sweep_seconds
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._queues: dict[str, deque[Call]] = defaultdict(deque)
        self._in_hand: dict[str, Call] = {}
        self._begun: set[str] = set()
        self._cancelled: set[str] = set()
        self._lanes = {name: ThreadPoolExecutor(size, thread_name_prefix=name) for name, size in LANES.items()}
        self._next_prune = 0.0

    def wake(self) -> None:
        """Look for work now. Cheap; may be called from any thread, any number of times."""
        self._wake.set()

    def tune(self, sweep_seconds: float) -> None:
        """Sweep at this period from now on."""
        sooner = sweep_seconds < self._sweep_seconds
        self._sweep_seconds = sweep_seconds
        if sooner:
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
        """Sweep until `stop`: at once, when woken, and each time the sweep's period ends."""
        if left := self._journal.abandon():
            log.warning("%s calls were cut off when the last worker ended", left)
        while not self._stopping.is_set():
            self._wake.clear()
            more = False
            try:
                self._prune()
                self._deliver_old()
                more = self._fetch()
            except ApiUnavailable as error:
                log.warning("the control plane does not answer: %s", error)
            except ApiRefused as error:
                log.error("the control plane refuses this host: %s", error)
            self._stopping.wait(GAP_SECONDS)
            if not more:
                # Shortened by chance, so that hosts which started together do not sweep together for ever.
                self._wake.wait(self._sweep_seconds * random.uniform(0.8, 1.0))  # noqa: S311  keeps no secret

    def stop(self, timeout: float = STOP_SECONDS) -> bool:
        """Fetch no more, begin no more; wait for calls that run. Return whether all of them ended in time.

        What was not begun is sent again when its lease ends; what did not end is answered by the next worker.
        """
        self._stopping.set()
        self._wake.set()
        for pool in self._lanes.values():
            pool.shutdown(wait=False, cancel_futures=True)
        return self.wait_idle(timeout)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no call runs. Return False when some still do after `timeout` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._begun, timeout)

    def _fetch(self) -> bool:
        """Take what there is room for; return whether there may be more."""
        room = min(FETCH_LIMIT, IN_HAND_LIMIT - len(self.in_hand()))
        if room <= 0:
            return False
        fetched = self._api.fetch(limit=room, in_hand=list(self.in_hand()))
        for answer in fetched.unreadable:
            log.error("call %s cannot be read: %s", answer.call_id, answer.error.message if answer.error else "")
            self._deliver(answer)
        for call in fetched.calls:
            self._accept(call)
        return len(fetched.calls) + len(fetched.unreadable) >= room

    def _accept(self, call: Call) -> None:
        with self._lock:
            if call.id in self._in_hand:
                return
            self._in_hand[call.id] = call
            queue = self._queues[call.target_id]
            queue.append(call)
            first = len(queue) == 1
        if first:
            self._submit(call)

    def _submit(self, call: Call) -> None:
        try:
            self._lanes[lane_of(call.method)].submit(self._work, call)
        except RuntimeError:
            # Shutting down: the call's lease runs out and it is sent again.
            return

    def _work(self, call: Call) -> None:
        with self._lock:
            dropped = call.id in self._cancelled or self._stopping.is_set()
            if not dropped:
                self._begun.add(call.id)
        try:
            if not dropped:
                self._deliver(self._answer(call))
        except Exception:
            log.exception("the answer to %s (%s) could not be kept", call.id, call.method)
        finally:
            following = self._let_go(call)
            if following is not None:
                self._submit(following)
            self._on_finished()
            # The next step of the same operation is usually there by the time this answer was taken.
            self._wake.set()

    def _let_go(self, call: Call) -> Call | None:
        """Take a call out of hand; return the next one for its target."""
        with self._idle:
            self._in_hand.pop(call.id, None)
            self._cancelled.discard(call.id)
            self._begun.discard(call.id)
            queue = self._queues[call.target_id]
            queue.popleft()
            self._idle.notify_all()
            if queue:
                return queue[0]
            del self._queues[call.target_id]
            return None

    def _answer(self, call: Call) -> CallAnswer:
        try:
            known = self._journal.begin(call)
        except StaleToken as error:
            return CallAnswer(call.id, call.token, "never", error=CallError("stale_token", str(error)))
        if known is not None:
            return known
        try:
            answer = self._executor.run(call)
        except Exception as error:
            # Whatever it was, it may have happened half way: only a new look can tell.
            log.exception("call %s (%s) raised", call.id, call.method)
            answer = CallAnswer(
                call.id,
                call.token,
                "unknown",
                error=CallError("worker_fault", f"{type(error).__name__}: {error}"[:500]),
            )
        self._journal.finish(answer)
        log.info("call %s %s: %s in %.3f s", call.id, call.method, _words(answer), answer.seconds)
        return answer

    def _deliver_old(self) -> None:
        in_hand = set(self.in_hand())
        for answer in self._journal.undelivered():
            if self._stopping.is_set() or (answer.call_id not in in_hand and not self._deliver(answer)):
                return

    def _deliver(self, answer: CallAnswer) -> bool:
        try:
            self._api.answer(answer)
        except ApiUnavailable as error:
            log.warning("the answer to %s waits in the journal: %s", answer.call_id, error)
            return False
        except ApiRefused as error:
            if error.status not in _UNWANTED:
                # The host is refused, not the answer (401, 403): an operator may set that right.
                log.error("the answer to %s waits in the journal: %s", answer.call_id, error)
                return False
            log.info("the answer to %s is not wanted: %s", answer.call_id, error)
        self._journal.delivered(answer.call_id)
        return True

    def _prune(self) -> None:
        if time.monotonic() >= self._next_prune:
            self._journal.prune()
            self._next_prune = time.monotonic() + PRUNE_SECONDS


def _words(answer: CallAnswer) -> str:
    return f"{answer.outcome} ({answer.error.code})" if answer.error else answer.outcome
