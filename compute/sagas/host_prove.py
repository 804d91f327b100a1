"""Enrolment by proof: the host boots real guests and shows what instances will need; only then may it carry any."""

from __future__ import annotations

from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from compute.models import Host, Pool
from compute.placement.inventory import apply_inventory
from compute.sagas.step import Context, HostOrder, HostStep, LocalStep, Saga
from compute.transitions import move
from compute.wire import HostProof


def _prove_call(context: Context) -> HostOrder:
    return HostOrder(host_id=context.target_id, method="host.prove", deadline_seconds=240.0)


def _proved(context: Context, result: dict[str, Any]) -> None:
    proof = HostProof.from_json(result)
    host = Host.objects.select_for_update(of=("self",), no_key=True).select_related("pool").get(id=context.target_id)
    apply_inventory(host=host, reported=proof.inventory)
    modes = {mode for mode in proof.inventory.virt_modes if mode == "lxc"} | (
        {proof.vm_mode} if proof.vm_mode else set()
    )
    steps = [step.to_json() for step in proof.steps]
    failed = [f"{step.name}: {step.detail}" for step in proof.steps if not step.ok]
    shared = proof.inventory.shared_storage_id
    # The first host's marker names the pool's storage; a host that sees another one would lose guests on a move.
    Pool.objects.filter(id=host.pool_id, shared_storage_id="").update(shared_storage_id=shared)
    expected = Pool.objects.values_list("shared_storage_id", flat=True).get(id=host.pool_id)
    if shared != expected:
        failed.append(f"shared storage: the host sees {shared or 'none'}, the pool's is {expected}")
    context.scratch["failed"] = failed
    Host.objects.filter(id=host.id).update(
        modes=sorted(modes), proof={"steps": steps, "vm_mode": proof.vm_mode}, proved_at=Now(), version=F("version") + 1
    )


def _enable(context: Context) -> None:
    host = Host.objects.select_for_update(no_key=True).get(id=context.target_id)
    failed = context.scratch.get("failed") or []
    if failed:
        reason = "; ".join(failed)[:255]
        if host.admin_state in ("enrolling", "enabled"):
            move(host, "disabled", column="admin_state", state_reason=reason)
        else:
            Host.objects.filter(id=host.id).update(state_reason=reason)
    elif host.admin_state == "enrolling" and context.input.get("enable", True):
        move(host, "enabled", column="admin_state", state_reason="")


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    Host.objects.filter(id=context.target_id).update(
        state_reason=f"proof failed: {error.get('detail') or error['message']}"[:255], version=F("version") + 1
    )


SAGA = Saga(
    kind="host_prove",
    target_type="host",
    steps=(
        HostStep("prove", call=_prove_call, done=_proved),
        LocalStep("enable", do=_enable),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
