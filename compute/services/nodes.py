"""What a node worker may ask and tell. Everything here is bound to the host whose token was shown: a host that has
fallen can neither see nor answer for another one, nor speak of instances that are not allocated to it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.functions import Now

from compute import outbox
from compute.errors import StaleAnswer
from compute.models import ConsoleLog, Domain, Host, HostCall, Instance
from compute.placement.inventory import apply_inventory
from compute.selectors.shares import shares_of_host, tenants_on
from compute.services.fences import debts_of
from compute.services.shares import note_partitions
from compute.transitions import move
from compute.wire import Call, CallAnswer, DomainReport, HeartbeatAnswer, HostReport
from tenants.errors import TokenInvalid

FETCH_LIMIT = 16
OWED_PAUSE_SECONDS = 10
# A row of which there is no news is written again after that long, for its CPU seconds. When a host was last heard of its
# domains stands on the host.
DOMAIN_WRITTEN_SECONDS = 300


def token_hash(token: str) -> str:
    """Return what is kept of a secret of 256 random bits: SHA-256 is enough where guessing is hopeless."""
    return hashlib.sha256(token.encode()).hexdigest()


def authenticate_node(token: str) -> Host:
    """Return the host whose token this is. Raises TokenInvalid."""
    host = Host.objects.filter(node_token_hash=token_hash(token)).exclude(admin_state="removed").first()
    if not token or host is None:
        raise TokenInvalid
    return host


def fetch_calls(*, host: Host, limit: int) -> list[Call]:
    """Hand out waiting calls of this host, oldest first, and lease them. While a debt is open, debts alone; to a host that
    is fenced, or not yet back in service since, nothing else either.

    SKIP LOCKED: two fetches at once never get the same call.
    """
    with transaction.atomic():
        waiting = HostCall.objects.filter(host=host, state="waiting").filter(
            Q(not_before__isnull=True) | Q(not_before__lte=Now())
        )
        owes = HostCall.objects.filter(host=host, purpose="debt", state__in=["waiting", "taken"]).exists()
        if owes or host.observed_state in ("fenced", "cleaning"):
            waiting = waiting.filter(purpose="debt")
        rows = list(waiting.select_for_update(skip_locked=True).order_by("created_at")[: min(limit, FETCH_LIMIT)])
        HostCall.objects.filter(id__in=[row.id for row in rows]).update(
            state="taken", taken_at=Now(), lease_until=Now() + timedelta(seconds=settings.HOST_CALL_LEASE_SECONDS)
        )
    return [
        Call(
            id=str(row.id),
            method=row.method,
            target_id=str(row.target_id),
            token=row.token,
            arguments=row.arguments,
            deadline_seconds=row.deadline_seconds,
        )
        for row in rows
    ]


def answer_call(*, host: Host, call_id: uuid.UUID, answer: CallAnswer) -> None:
    """Store a host's answer and ring for the operation. The same answer again changes nothing.

    Raises StaleAnswer for a call that is not this host's, was superseded, or carries another token.
    """
    with transaction.atomic(durable=True):
        call = HostCall.objects.select_for_update(of=("self",)).filter(id=call_id, host=host).first()
        if call is None or call.token != answer.token:
            raise StaleAnswer("This host has no such call.")
        if call.state == "answered":
            return
        if call.state == "superseded":
            raise StaleAnswer("The call was superseded by a newer one.")
        settled = call.operation_id is None
        move(call, "answered", answer=answer.to_json(), answered_at=Now(), settled=settled, lease_until=None)
        if call.operation_id is not None:
            outbox.ring("op", call.operation_id)
        elif call.purpose == "read":
            _keep_reading(call, answer)
        elif answer.outcome != "done":
            _owe_again(call)


def _keep_reading(call: HostCall, answer: CallAnswer) -> None:
    if call.method == "instance.console_log" and answer.outcome == "done":
        # PostgreSQL's text knows no NUL; a guest may print any byte.
        text = str(answer.result.get("text", "")).replace("\x00", "")
        ConsoleLog.objects.update_or_create(instance_id=call.target_id, defaults={"text": text, "fetched_at": Now()})


def _owe_again(call: HostCall) -> None:
    """A debt or reap that the host could not pay now stays owed, and is asked for again after a pause."""
    again = outbox.write_call(
        host_id=call.host_id,
        method=call.method,
        target_type="instance",
        target_id=call.target_id,
        arguments=call.arguments,
        deadline_seconds=call.deadline_seconds,
        purpose=call.purpose,
    )
    HostCall.objects.filter(id=again.id).update(not_before=Now() + timedelta(seconds=OWED_PAUSE_SECONDS))


def heartbeat(*, host: Host, report: HostReport) -> HeartbeatAnswer:
    """Take a host's report: alive, its calls in hand, its inventory and domains. Return what it should know.

    A report without domains (`None`) says that the host lives and that nothing may be concluded about its guests.
    """
    in_hand = _uuids(report.calls_in_hand)
    with transaction.atomic():
        locked = Host.objects.select_for_update(of=("self",), no_key=True).select_related("pool").get(id=host.id)
        _note_alive(locked, report)
        if report.inventory is not None:
            apply_inventory(host=locked, reported=report.inventory)
    if in_hand:
        HostCall.objects.filter(state="taken", host=host, id__in=in_hand).update(
            lease_until=Now() + timedelta(seconds=settings.HOST_CALL_LEASE_SECONDS)
        )
    if report.domains is not None:
        _note_domains(locked, report.domains, report.disks)
    tenants = tenants_on(locked)
    if report.partitions is not None:
        note_partitions(host=locked, boot_id=report.boot_id[:64], reports=report.partitions, tenants=tenants)
    return HeartbeatAnswer(
        cancel=_superseded(host, in_hand) if in_hand else (),
        heartbeat_seconds=settings.HEARTBEAT_SECONDS,
        shares=shares_of_host(host=locked, tenants=tenants),
    )


def _superseded(host: Host, in_hand: Sequence[uuid.UUID]) -> tuple[str, ...]:
    dead = HostCall.objects.filter(host=host, state="superseded", id__in=in_hand)
    return tuple(str(call_id) for call_id in dead.values_list("id", flat=True))


def _uuids(texts: Sequence[str]) -> list[uuid.UUID]:
    found = []
    for text in texts:
        try:
            found.append(uuid.UUID(text))
        except ValueError:
            continue
    return found


def _note_alive(host: Host, report: HostReport) -> None:
    changes: dict[str, Any] = {"last_seen_at": Now(), "boot_id": report.boot_id[:64]}
    if host.boot_id and host.boot_id != report.boot_id[:64]:
        changes["booted_at"] = Now()
    skew = _skew_seconds(report.clock)
    if skew is not None:
        changes["clock_skew_seconds"] = skew
    if host.observed_state == "down" and (owed := debts_of(host).count()):
        # What is left there of guests that are elsewhere goes before anything new is placed on it.
        reason = f"pays {owed} debts before it serves again"
        move(host, "cleaning", column="observed_state", state_reason=reason, **changes)
    elif host.observed_state in ("unknown", "suspect", "down"):
        move(host, "up", column="observed_state", state_reason="", **changes)
    else:
        # `fenced` is left by an operator's word alone, and `cleaning` when all debts are paid (reconcilers.hosts).
        if host.observed_state == "fenced":
            changes["state_reason"] = (
                "heard again since its fence: its stale guests are destroyed, nothing else is done there"
            )
        Host.objects.filter(id=host.id).update(**changes)


def _skew_seconds(clock: str) -> float | None:
    """Return how far a host's clock is ahead of the database's, None where it told no time with a zone."""
    try:
        return round((datetime.fromisoformat(clock) - outbox.database_now()).total_seconds(), 1)
    except (ValueError, TypeError):
        return None


def _news(seen: Mapping[uuid.UUID, DomainReport], known: Mapping[uuid.UUID, Domain]) -> dict[uuid.UUID, DomainReport]:
    """Return what a listing says that the rows do not: a quiet host's heartbeat writes none of them."""
    return {
        instance_id: report
        for instance_id, report in seen.items()
        if (row := known.get(instance_id)) is None
        or row.misses
        or (row.power, row.token) != (report.power, report.token)
        or row.is_old  # type: ignore[attr-defined]  # annotated below
    }


def _domains(host: Host) -> QuerySet[Domain]:
    old = Q(observed_at__lt=Now() - timedelta(seconds=DOMAIN_WRITTEN_SECONDS))
    return Domain.objects.filter(host=host).annotate(is_old=ExpressionWrapper(old, output_field=BooleanField()))


def _write_news(host: Host, news: Mapping[uuid.UUID, DomainReport], known: Mapping[uuid.UUID, Domain]) -> None:
    """Write the news of one listing in one statement, however many the host carries."""
    rows = []
    for instance_id, report in news.items():
        row = known.get(instance_id)
        rows.append(
            Domain(
                instance_id=instance_id,
                host=host,
                power=report.power,
                token=report.token,
                cpu_seconds=report.cpu_seconds,
                misses=0,
                since=row.since if row is not None and row.power == report.power else Now(),
                observed_at=Now(),
            )
        )
    Domain.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["instance", "host"],
        update_fields=["power", "token", "cpu_seconds", "misses", "since", "observed_at"],
    )


def _count_missing(missing: QuerySet[Domain]) -> None:
    # Second listing in a row without it, both successful: only now is it gone.
    missing.filter(misses__gte=1).exclude(power="absent").update(power="absent", since=Now())
    missing.filter(misses__lt=1000).update(misses=F("misses") + 1, observed_at=Now())


def _note_domains(host: Host, reports: Sequence[DomainReport], disks: Sequence[str] | None) -> None:
    """Bring Domain rows to what this listing shows: seen ones updated, missing ones counted, strays kept for the reconciler."""
    with transaction.atomic():
        # The host's row before its domains', as the end of a delete takes them: else the two wait for each other. And
        # before the instances are read: one whose delete ends meanwhile must not get a new Domain row.
        Host.objects.select_for_update(of=("self",), no_key=True).get(id=host.id)
        here = Instance.unscoped.filter(host=host).exclude(state="deleted")
        ours = {str(pk): pk for pk in here.values_list("id", flat=True)}
        seen = {ours[report.instance_id]: report for report in reports if report.instance_id in ours}
        strays = [
            {"instance_id": report.instance_id, "name": report.name[:80], "power": report.power, "token": report.token}
            for report in reports
            if report.instance_id is not None and report.instance_id not in ours
        ]
        known = {row.instance_id: row for row in _domains(host)}
        missing = known.keys() - seen.keys()
        if news := _news(seen, known):
            # Looked at again under their locks: the end of a step may have told of them meanwhile.
            known = {row.instance_id: row for row in _domains(host).filter(instance__in=news).select_for_update()}
            _write_news(host, {instance_id: seen[instance_id] for instance_id in news}, known)
        if missing:
            _count_missing(Domain.objects.filter(host=host).exclude(instance_id__in=seen))
        changes = {"observed_at": Now(), "strays": strays}
        if disks is not None:
            live = {
                str(pk)
                for pk in Instance.unscoped.filter(id__in=_uuids(disks))
                .exclude(state__in=["deleted", "failed"])
                .values_list("id", flat=True)
            }
            changes["stray_disks"] = sorted(set(disks) - live)
        Host.objects.filter(id=host.id).update(**changes)
