"""Plans of moves: drawn up, applied if the world is still as they say, paused, gone on with, aborted. By operators."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import InvalidState, PlanOutdated, PlanRefused
from compute.models import Host, Operation, Plan, PlanStep
from compute.services.drain_draft import DrainOptions, draft_drain
from compute.services.fences import lock_host
from compute.services.plan_draft import Draft, Step
from compute.transitions import move
from tenants.errors import NotFound
from tenants.services import audit
from tenants.services.access import Actor, authorize

VALID_SECONDS: Final = 900


def propose_drain(*, actor: Actor, host_id: uuid.UUID, options: DrainOptions, reason: str = "") -> Plan:
    """Draw up how a host would be emptied: each guest with its fate. Nothing is taken; `apply_plan` carries it out.

    Raises NotFound, PermissionDenied; InvalidState for a host that is not in service, or is being drained.
    """
    authorize(actor, "host.drain", None)
    with transaction.atomic(durable=True):
        host = Host.objects.select_related("pool").filter(id=host_id).exclude(admin_state="removed").first()
        if host is None:
            raise NotFound
        if host.admin_state not in ("enabled", "disabled"):
            raise InvalidState(f"{host.name} is {host.admin_state}.", state=host.admin_state)
        draft = draft_drain(host, options)
        plan = Plan.objects.create(
            kind="drain",
            pool=host.pool,
            host=host,
            options={
                "stop": options.stop,
                "consent": list(options.consent),
                "accept_losses": options.accept_losses,
                "reason": reason[:255],
                "admin_state": host.admin_state,
            },
            fingerprint=draft.fingerprint(),
            refusals=list(draft.refusals),
            survival=draft.survival,
            actor=actor.username,
            expires_at=Now() + timedelta(seconds=VALID_SECONDS),
        )
        plan.refresh_from_db()
        add_steps(plan, draft.steps)
        return plan


def apply_plan(*, actor: Actor, plan_id: uuid.UUID) -> Plan:
    """Begin to carry a plan out. It is drawn up anew first: where its basis differs, it is refused with the difference.

    Where only destinations differ, the new ones count. One that is being carried out is returned as it is.
    Raises NotFound, PermissionDenied, InvalidState; PlanRefused with `refusals`; PlanOutdated with `difference`.
    """
    with transaction.atomic(durable=True):
        plan = _lock(actor, plan_id)
        if plan.state in ("running", "paused"):
            return plan
        if plan.state != "proposed" or plan.expires_at <= outbox.database_now():
            raise InvalidState(f"The plan is {_word(plan)}. Draw up a new one.", state=plan.state)
        assert plan.host_id is not None
        host = lock_host(plan.host_id)
        draft = draft_drain(host, DrainOptions.read(plan.options))
        if draft.fingerprint() != plan.fingerprint:
            difference = _difference(plan, draft)
            sentences = "; ".join(
                f"{row['about']}: {row['planned'] or 'not there'} then, {row['now'] or 'not there'} now"
                for row in difference
            )
            raise PlanOutdated(
                f"What matters to this plan has changed ({sentences}). Draw up a new one.", difference=difference
            )
        if draft.refusals:
            raise PlanRefused(
                " ".join(refusal["detail"] for refusal in draft.refusals),
                refusals=[dict(row) for row in draft.refusals],
            )
        plan.steps.all().delete()
        add_steps(plan, draft.steps)
        try:
            with transaction.atomic():
                move(plan, "running", applied_at=Now(), survival=draft.survival)
        except IntegrityError:
            raise InvalidState(f"Another plan is being carried out on {host.name}.", state="running") from None
        move(host, "draining", column="admin_state", state_reason=plan.options["reason"])
        audit.record(actor=actor, action="host.drain", target=host, after={"plan": str(plan.id), **plan.options})
        outbox.ring("plan", plan.id)
        return plan


def pause_plan(*, actor: Actor, plan_id: uuid.UUID, reason: str = "") -> Plan:
    """Begin no further step; those under way go on. Raises NotFound, PermissionDenied, InvalidState."""
    with transaction.atomic(durable=True):
        plan = _lock(actor, plan_id)
        if plan.state != "paused":
            _allow(plan, "paused")
            move(plan, "paused", reason=reason[:255])
            _record(actor, plan, "plan.pause")
        return plan


def resume_plan(*, actor: Actor, plan_id: uuid.UUID) -> Plan:
    """Go on with a plan that is paused, or that stopped: what failed or was blocked is looked at anew.

    Raises NotFound, PermissionDenied, InvalidState.
    """
    with transaction.atomic(durable=True):
        plan = _lock(actor, plan_id)
        if plan.state != "running":
            _allow(plan, "running")
            if plan.state == "stopped":
                for step in plan.steps.filter(state__in=["failed", "blocked"]):
                    move(step, "skipped")  # a fresh step takes its place, as things are now
            move(plan, "running", reason="")
            _record(actor, plan, "plan.resume")
            outbox.ring("plan", plan.id)
        return plan


def abort_plan(*, actor: Actor, plan_id: uuid.UUID) -> Plan:
    """End a plan: moves under way are cancelled where they still can be, what has moved stays, the host is
    again what it was before.

    Raises NotFound, PermissionDenied, InvalidState.
    """
    with transaction.atomic(durable=True):
        plan = _lock(actor, plan_id)
        if plan.state == "aborted":
            return plan
        _allow(plan, "aborted")
        for step in plan.steps.filter(state__in=["waiting", "failed", "blocked"]):
            move(step, "skipped")
        moving = plan.steps.filter(state="running").values("migration__operation")
        open_now = Operation.objects.filter(id__in=moving, state__in=states.OPERATION_OPEN)
        for operation_id in list(open_now.values_list("id", flat=True)):
            Operation.objects.filter(id=operation_id).update(cancel_requested=True)
            outbox.ring("op", operation_id)
        move(plan, "aborted", ended_at=Now())
        # After the operations' rows: a turn holds those while it waits for hosts'.
        host = lock_host(plan.host_id) if plan.host_id is not None else None
        if host is not None and host.admin_state == "draining":
            move(host, plan.options["admin_state"], column="admin_state", state_reason="")
        _record(actor, plan, "plan.abort")
        return plan


def add_steps(plan: Plan, steps: Sequence[Step]) -> None:
    """Write a draft's steps behind those that the plan has."""
    last = plan.steps.order_by("-number").values_list("number", flat=True).first() or 0
    PlanStep.objects.bulk_create(
        PlanStep(
            plan=plan,
            number=last + place + 1,
            instance=step.instance,
            source_id=step.source_id,
            destination_id=step.destination_id,
            way=step.way,
            state="waiting" if step.moves else "blocked",
            after=[last + other + 1 for other in step.after],
            reason=step.reason[:255],
            code=step.code,
            message=step.message,
        )
        for place, step in enumerate(steps)
    )


def _lock(actor: Actor, plan_id: uuid.UUID) -> Plan:
    """The plan's row comes before instances and hosts in the order of locks."""
    authorize(actor, "host.drain", None)
    rows = Plan.objects.select_for_update(of=("self",)).select_related("pool", "host__pool")
    plan: Plan | None = rows.filter(id=plan_id).first()
    if plan is None:
        raise NotFound
    return plan


def _allow(plan: Plan, target: str) -> None:
    if target not in states.PLAN[plan.state]:
        raise InvalidState(f"The plan is {_word(plan)}: it cannot become {target}.", state=plan.state)


def _word(plan: Plan) -> str:
    return "expired" if plan.state == "proposed" and plan.expires_at <= outbox.database_now() else str(plan.state)


def _difference(plan: Plan, draft: Draft) -> list[dict[str, Any]]:
    """Say of each guest, and each refusal, what the plan says and how it is now; "" where it is not there at all."""
    names = {str(step.instance_id): step.instance.name for step in plan.steps.select_related("instance")}
    names |= {str(step.instance.id): step.instance.name for step in draft.steps}
    said = {str(step.instance_id): f"{step.way} {step.code}".strip() for step in plan.steps.all()} | {
        refusal["code"]: refusal["detail"] for refusal in plan.refusals
    }
    now = draft.basis()
    return [
        {"about": names.get(key, key), "planned": said.get(key, ""), "now": now.get(key, "")}
        for key in sorted(said.keys() | now.keys())
        if said.get(key, "") != now.get(key, "")
    ]


def _record(actor: Actor, plan: Plan, action: str) -> None:
    audit.record(actor=actor, action=action, target=("plan", plan.id, str(plan)))


def expire_plans() -> int:
    """End proposals that nobody applied in time; return how many."""
    done = 0
    for plan in Plan.objects.filter(state="proposed", expires_at__lt=Now())[:500]:
        with transaction.atomic():
            if Plan.objects.select_for_update(skip_locked=True).filter(id=plan.id, state="proposed").exists():
                move(plan, "expired", ended_at=F("expires_at"))
                done += 1
    return done
