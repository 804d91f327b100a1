"""Carrying plans out: each step begins in a transaction of its own, after everything was looked at again.

The order to move and the note that it was given are one commit, so whoever dies, nobody is moved twice. What a step needs is
asked under the instance's lock: that it is where the plan says, and may still be moved in this way.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import NotMovable, NoValidHost, OperationInProgress
from compute.models import Host, Instance, Migration, Operation, Plan, PlanStep
from compute.services.drain_draft import DrainOptions, draft_drain
from compute.services.elsewhere import power_of
from compute.services.fences import lock_host
from compute.services.instances_move import order_move
from compute.services.locking import lock_instance
from compute.services.lost_guests import guests_of
from compute.services.migrations import Terms, order_migration
from compute.services.plan_draft import way_of
from compute.services.plans import add_steps
from compute.transitions import move
from tenants.errors import DomainError, NotFound
from tenants.services.access import system_actor

log = logging.getLogger(__name__)

ACTOR: Final = system_actor("plan")
LEAVING: Final = 2  # guests that leave one host at a time, whatever plans they are of
COMING: Final = 2
TRIES: Final = 3
PASSING: Final = ("not_active", "not_running", "not_stopped")
ASKED_AGAIN: Final = 5
PAUSE_SECONDS: Final = 15  # after the first try; four times as long after each further one


def take_turn(*, plan_id: uuid.UUID) -> int:
    """Begin as many steps as may be under way at once; return how many. Any number of workers may call it at once."""
    begun = 0
    while _begin_next(plan_id):
        begun += 1
    return begun


def _begin_next(plan_id: uuid.UUID) -> bool:
    with transaction.atomic(durable=True):
        # Waited for, and not passed over: who holds it may have looked before the news for which this turn was rung.
        rows = Plan.objects.select_for_update(of=("self",)).select_related("host__pool", "pool")
        plan = rows.filter(id=plan_id).first()
        if plan is None:
            return False
        _hear(plan)
        if plan.state != "running" or not _still_wanted(plan):
            return False
        step = _next(plan)
        if step is None:
            _conclude(plan)
            return False
        _begin(plan, step)
        return True


def _still_wanted(plan: Plan) -> bool:
    """A host that an operator has enabled or disabled meanwhile is not drained any more: what has not begun never does."""
    host = plan.host
    if host is None or host.admin_state == "draining":
        return True
    for step in plan.steps.filter(state__in=["waiting", "failed", "blocked"]):
        move(step, "skipped")
    move(plan, "aborted", reason=f"{host.name} is {host.admin_state}", ended_at=Now())
    return False


def _hear(plan: Plan) -> None:
    """Write down how the moves ended that are not under way any more."""
    for step in plan.steps.filter(state="running").select_related("migration__operation"):
        assert step.migration is not None
        operation = step.migration.operation
        assert operation is not None
        if operation.state == "succeeded":
            move(step, "done", code="", message="")
        elif operation.state in ("failed", "cancelled"):
            error = operation.error or {}
            _put_off(
                step, error.get("code", operation.state), error.get("message", ""), last=operation.state == "cancelled"
            )


def _put_off(step: PlanStep, code: str, message: str, *, last: bool = False) -> None:
    """Try again after a pause that grows, until it was tried often enough."""
    kept = {"code": code[:32], "message": message[:1000]}
    if last or step.tries >= TRIES:
        move(step, "failed", **kept)
        return
    pause = timedelta(seconds=PAUSE_SECONDS * 4 ** max(step.tries - 1, 0))
    if step.state == "running":
        move(step, "waiting", not_before=Now() + pause, **kept)
    else:
        PlanStep.objects.filter(id=step.id).update(not_before=Now() + pause, **kept)


def _next(plan: Plan) -> PlanStep | None:
    """Return the first step that may begin now: its time has come, what it waits for has ended, and its links are free."""
    waiting = plan.steps.filter(state="waiting").exclude(not_before__gt=Now())
    ended = set(plan.steps.filter(state__in=["done", "skipped"]).values_list("number", flat=True))
    full_out, full_in = _full_links()
    for step in waiting.select_related("instance"):
        if not set(step.after) <= ended:
            continue
        if step.source_id not in full_out and step.destination_id not in full_in:
            return step
    return None


def _full_links() -> tuple[set[uuid.UUID], set[uuid.UUID]]:
    leaving: dict[uuid.UUID, int] = {}
    coming: dict[uuid.UUID, int] = {}
    open_now = Migration.objects.filter(state__in=states.MIGRATION_OPEN)
    for source_id, destination_id in open_now.values_list("source_id", "destination_id"):
        leaving[source_id] = leaving.get(source_id, 0) + 1
        coming[destination_id] = coming.get(destination_id, 0) + 1
    return (
        {host_id for host_id, count in leaving.items() if count >= LEAVING},
        {host_id for host_id, count in coming.items() if count >= COMING},
    )


def _begin(plan: Plan, step: PlanStep) -> None:
    """Order the step's move; or say why there is nothing to do, or that it has to wait."""
    try:
        instance = lock_instance(actor=ACTOR, instance_id=step.instance_id, permission="instance.migrate")
    except NotFound:
        move(step, "skipped", code="gone", message="It was deleted.")
        return
    if instance.host_id != step.source_id or instance.state not in states.INSTANCE_HOLDS_ROOM:
        move(step, "skipped", code="elsewhere", message="It is not on this host any more.")
        return
    try:
        with transaction.atomic():
            migration = _order(plan, step, instance)
    except OperationInProgress as error:
        # It ends by itself, and is no try.
        PlanStep.objects.filter(id=step.id).update(
            not_before=Now() + timedelta(seconds=PAUSE_SECONDS), code=error.code, message=str(error)[:1000]
        )
    except NotMovable as error:
        move(step, "blocked", code=error.data["obstacles"][0]["code"], message=str(error)[:1000])
    except DomainError as error:
        PlanStep.objects.filter(id=step.id).update(tries=step.tries + 1)
        step.tries += 1
        _put_off(step, error.code, str(error))
    else:
        move(
            step,
            "running",
            migration=migration,
            tries=step.tries + 1,
            destination=migration.destination,
            code="",
            message="",
        )


def _order(plan: Plan, step: PlanStep, instance: Instance) -> Migration:
    if _passing(Instance.unscoped.filter(id=instance.id)):
        raise OperationInProgress(f"Another operation is in progress on {instance.name}.")
    options = DrainOptions.read(plan.options)
    # The fate that the plan was applied with does not get worse: what was to go live is stopped by its own contract alone.
    stop = instance.disruption == "restart" or (options.stop and step.way == "cold")
    way, obstacles = way_of(instance, power=power_of(instance), stop=stop, asked=str(instance.id) in options.consent)
    if obstacles:
        sentences = " ".join(obstacle.detail for obstacle in obstacles)
        raise NotMovable(
            sentences, obstacles=[{"code": obstacle.code, "detail": obstacle.detail} for obstacle in obstacles]
        )
    for destination in _destinations(plan, step):
        try:
            with transaction.atomic():
                if way == "live":
                    terms = _terms(instance)
                    return order_migration(
                        actor=ACTOR,
                        instance=instance,
                        destination=destination,
                        terms=terms,
                        reason=step.reason,
                        plan_id=plan.id,
                    )[0]
                return order_move(
                    actor=ACTOR,
                    instance=instance,
                    destination=destination,
                    stop=stop,
                    reason=step.reason,
                    plan_id=plan.id,
                )[0]
        except NoValidHost as error:
            refused = error
    raise refused


def _destinations(plan: Plan, step: PlanStep) -> Sequence[Host | None]:
    """The planned one; in a drain any other as well, since all that counts is that the guest leaves."""
    return [step.destination, None] if plan.kind == "drain" else [step.destination]


def _terms(instance: Instance) -> Terms:
    """Return how it may be treated on its way: its contract limits the pause that is allowed."""
    usual = Terms()
    if instance.pause_limit_ms is None:
        return usual
    limit = min(usual.downtime_limit_ms, instance.pause_limit_ms)
    return Terms(downtime_ms=min(usual.downtime_ms, limit), downtime_limit_ms=limit)


def _conclude(plan: Plan) -> None:
    """End the plan where nothing is left to begin and nothing is under way."""
    if plan.steps.filter(state__in=["waiting", "running"]).exists():
        return
    if plan.host_id is None:
        failed = plan.steps.filter(state__in=["failed", "blocked"]).count()
        move(plan, "finished", reason=f"{failed} moves did not come about" if failed else "", ended_at=Now())
        return
    host = lock_host(plan.host_id)
    left = guests_of(host)
    if not left.exists():
        move(host, "drained", column="admin_state")
        move(plan, "finished", reason="", ended_at=Now())
        log.warning("host %s is drained", host.name)
        return
    _ask_again(plan)
    known = plan.steps.filter(state__in=["failed", "blocked"]).values_list("instance_id", flat=True)
    draft = draft_drain(host, DrainOptions.read(plan.options), without=frozenset(known))
    if draft.steps:
        # They came, or changed, since it was applied.
        add_steps(plan, draft.steps)
        outbox.ring("plan", plan.id)
    elif not _passing(left):
        kept = plan.steps.filter(state__in=["failed", "blocked"]).select_related("instance")
        sentences = "; ".join(f"{step.instance.name}: {(step.message or step.code).rstrip('.')}" for step in kept)
        move(plan, "stopped", reason=f"{left.count()} guests are left. {sentences}."[:1000])
        log.warning("the drain of %s has stopped: %s", host.name, sentences)


def _ask_again(plan: Plan) -> None:
    """Skip what was blocked by something that passes, for a fresh step to take its place; a few times for each guest."""
    for step in plan.steps.filter(state="blocked", code__in=PASSING).select_related("instance"):
        tried = plan.steps.filter(instance=step.instance_id).count()
        if tried < ASKED_AGAIN and not _passing(Instance.unscoped.filter(id=step.instance_id)):
            move(step, "skipped")


def _passing(left: QuerySet[Instance]) -> bool:
    """Whether a guest that is left is being made, deleted or worked on, which ends by itself."""
    busy = Operation.objects.filter(
        target_type="instance", target_id__in=left.order_by().values("id"), state__in=states.OPERATION_OPEN
    )
    return busy.exists() or left.filter(state__in=["building", "deleting"]).exists()
