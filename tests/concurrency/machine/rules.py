"""Random acts on a small cloud, each one call of a service. What a service refuses is an outcome like any other."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from compute.models import Flavor, Grant, Host, Instance, Keypair, Operation, Pool
from compute.services.drain_draft import DrainOptions
from compute.services.grants import Terms, create_grant, delete_grant, update_grant
from compute.services.hosts import disable_host, enable_host
from compute.services.instances_create import create_instances
from compute.services.instances_delete import delete_instance
from compute.services.instances_move import move_instance
from compute.services.instances_power import reboot_instance, start_instance, stop_instance
from compute.services.instances_resize import resize_instance
from compute.services.keypairs import create_keypair, delete_keypair
from compute.services.lease_terms import LeaseAsk
from compute.services.leases import change_lease
from compute.services.migrations import migrate_instance
from compute.services.operations import cancel_operation
from compute.services.plans import apply_plan, propose_drain
from compute.services.tenants_delete import delete_tenant_with_contents, plan_tenant_delete
from compute.services.tenants_move import move_tenant_with_guests
from tenants.errors import DomainError
from tenants.models import ApiToken, Membership, Tenant, User
from tenants.services import members, quotas, tenants, tokens
from tenants.services.access import system_actor

ACTOR = system_actor("state machine")
TENANTS = 24  # about as many live at any time
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


class Nothing(Exception):
    """There is nothing to do this to."""


class Rules:
    """Picks an act by weight, its objects by dice. `outcomes` counts acts by their name and how they ended."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.outcomes: Counter[str] = Counter()
        self._acts: list[tuple[int, Callable[[], Any]]] = [
            (24, self.create),
            (20, self.delete),
            (4, self.start),
            (7, self.stop),
            (2, self.reboot),
            (10, self.resize),
            (8, self.migrate),
            (4, self.move),
            (5, self.lease),
            (4, self.lease_end),
            (4, self.cancel),
            (4, self.tenant_create),
            (3, self.tenant_delete),
            (2, self.tenant_delete_whole),
            (6, self.tenant_move),
            (3, self.tenant_switch),
            (5, self.limit),
            (3, self.grant_create),
            (4, self.grant_update),
            (2, self.grant_delete),
            (2, self.member),
            (3, self.token),
            (3, self.keypair),
        ]

    def step(self) -> str:
        """Do one act and return what it was and how it ended."""
        weights = [weight for weight, _ in self._acts]
        act = self.dice.choices([act for _, act in self._acts], weights)[0]
        return self.run(act)

    def run(self, act: Callable[[], Any]) -> str:
        """Do this act."""
        try:
            act()
            ended = "done"
        except Nothing:
            ended = "nothing there"
        except DomainError as error:
            ended = error.code
        except (Instance.DoesNotExist, Tenant.DoesNotExist):
            ended = "gone"
        outcome = f"{act.__name__}: {ended}"
        self.outcomes[outcome] += 1
        return outcome

    # -- guests

    def create(self) -> None:
        create_instances(
            actor=ACTOR,
            tenant=self._tenant(),
            name=f"guest-{self.dice.randrange(10**6)}",
            flavor=self._one(Flavor.objects.all()).name,
            image="tiny",
            count=self.dice.choice([1, 1, 1, 2, 3]),
            lease=self._lease() if self.dice.random() < 0.2 else None,
        )

    def delete(self) -> None:
        rows = Instance.unscoped.exclude(state="deleted")
        if self.dice.random() < 0.9:
            rows = rows.exclude(state="deleting")
        delete_instance(actor=ACTOR, instance_id=self._one(rows).id)

    def start(self) -> None:
        start_instance(actor=ACTOR, instance_id=self._instance().id)

    def stop(self) -> None:
        stop_instance(actor=ACTOR, instance_id=self._instance().id, force=self.dice.random() < 0.5)

    def reboot(self) -> None:
        reboot_instance(actor=ACTOR, instance_id=self._instance().id, force=True)

    def resize(self) -> None:
        """A stopped guest more often than not: of the others the refusal is all there is to see."""
        stopped = Instance.unscoped.filter(state="active", desired_power="stopped")
        found = self._one(stopped) if stopped.exists() and self.dice.random() < 0.9 else self._instance()
        resize_instance(
            actor=ACTOR,
            instance_id=found.id,
            flavor=self._one(Flavor.objects.filter(disk_gib__gte=found.disk_gib).exclude(id=found.flavor_id)).name,
        )

    def migrate(self) -> None:
        """A running guest more often than not, to wherever it suits or to any host."""
        running = Instance.unscoped.filter(state="active", desired_power="running")
        found = self._one(running) if running.exists() and self.dice.random() < 0.9 else self._instance()
        to = self._one(Host.objects.all()) if self.dice.random() < 0.3 else None
        migrate_instance(actor=ACTOR, instance_id=found.id, destination=to)

    def move(self) -> None:
        """Cold, as it stands or stopped for it; one at rest more often than not, to wherever it suits or to any host."""
        active = Instance.unscoped.filter(state="active")
        found = self._one(active) if active.exists() and self.dice.random() < 0.9 else self._instance()
        to = self._one(Host.objects.all()) if self.dice.random() < 0.3 else None
        move_instance(actor=ACTOR, instance_id=found.id, destination=to, stop=self.dice.random() < 0.6)

    def lease(self) -> None:
        lease = self._lease() if self.dice.random() < 0.8 else None
        change_lease(actor=ACTOR, instance_id=self._instance().id, lease=lease)

    def lease_end(self) -> None:
        """A lease ends; engines look for those that have."""
        leased = Instance.unscoped.exclude(state="deleted").filter(lease_ends_at__gt=Now())
        rows = Instance.unscoped.filter(id=self._one(leased).id, lease_ends_at__isnull=False)
        rows.update(lease_ends_at=Now() - timedelta(seconds=1))

    def _lease(self) -> LeaseAsk:
        return LeaseAsk(seconds=self.dice.choice([60, 3600]), action=self.dice.choice(["stop", "delete"]))

    def cancel(self) -> None:
        rows = Operation.objects.filter(state__in=["pending", "running"], target_type__in=["instance", "tenant"])
        cancel_operation(actor=ACTOR, operation_id=self._one(rows).id)

    # -- the tree

    def tenant_create(self) -> None:
        if Tenant.objects.exclude(state="deleted").count() >= TENANTS:
            raise Nothing
        parent = None if self.dice.random() < 0.1 else self._tenant()
        tenants.create_tenant(actor=ACTOR, name=f"t{uuid.UUID(int=self.dice.getrandbits(128)).hex[:12]}", parent=parent)

    def tenant_delete(self) -> None:
        if Tenant.objects.exclude(state="deleted").count() < TENANTS // 3:
            raise Nothing
        tenants.delete_tenant(actor=ACTOR, tenant=self._tenant())

    def tenant_delete_whole(self) -> None:
        """With all that it holds, which others may change between the look and the order."""
        if Tenant.objects.exclude(state="deleted").count() < TENANTS // 2:
            raise Nothing
        tenant = self._one(Tenant.objects.exclude(state="deleted").exclude(parent=None))
        seen = plan_tenant_delete(actor=ACTOR, tenant=tenant).fingerprint
        delete_tenant_with_contents(actor=ACTOR, tenant=tenant, fingerprint=seen)

    def tenant_move(self) -> None:
        parent = None if self.dice.random() < 0.1 else self._tenant()
        move_tenant_with_guests(actor=ACTOR, tenant=self._tenant(), parent=parent)

    def tenant_switch(self) -> None:
        off = Tenant.objects.filter(state="disabled")
        if off.exists() and self.dice.random() < 0.7:
            tenants.set_tenant_state(actor=ACTOR, tenant=self._one(off), active=True)
        else:
            tenants.set_tenant_state(actor=ACTOR, tenant=self._tenant(), active=False)

    def limit(self) -> None:
        limits = {
            "instances": self.dice.choice([None, None, 3, 8, 20]),
            "vcpus": self.dice.choice([None, None, 4, 12, 30]),
        }
        resource = self.dice.choice(list(limits))
        quotas.set_limit(actor=ACTOR, tenant=self._tenant(), resource=resource, limit=limits[resource])

    def member(self) -> None:
        row = self.dice.random() < 0.5 and Membership.unscoped.select_related("tenant", "user").order_by("?").first()
        if row:
            members.remove_member(actor=ACTOR, tenant=row.tenant, user=row.user)
        else:
            user = self._one(User.objects.all())
            role = self.dice.choice(["owner", "viewer"])
            members.add_member(actor=ACTOR, tenant=self._tenant(), user=user, role=role)

    def token(self) -> None:
        live = ApiToken.unscoped.filter(revoked_at=None).select_related("tenant")
        if live.exists() and self.dice.random() < 0.5:
            tokens.revoke_token(actor=ACTOR, token=self._one(live))
        else:
            row = self._one(Membership.unscoped.select_related("tenant", "user"))
            tokens.create_token(actor=ACTOR, user=row.user, tenant=row.tenant, name="t")

    def keypair(self) -> None:
        if Keypair.unscoped.exists() and self.dice.random() < 0.5:
            delete_keypair(actor=ACTOR, keypair_id=self._one(Keypair.unscoped.all()).id)
        else:
            name = f"k{self.dice.randrange(10**6)}"
            create_keypair(actor=ACTOR, tenant=self._tenant(), name=name, public_key=KEY)

    # -- promises

    def grant_create(self) -> None:
        flavor = Flavor.objects.get(name="unit")
        terms = self._terms()
        create_grant(actor=ACTOR, tenant=self._tenant(), pool=self._one(Pool.objects.all()), flavor=flavor, terms=terms)

    def grant_update(self) -> None:
        update_grant(actor=ACTOR, grant_id=self._one(Grant.unscoped.all()).id, terms=self._terms())

    def grant_delete(self) -> None:
        delete_grant(actor=ACTOR, grant_id=self._one(Grant.unscoped.all()).id)

    def _terms(self) -> Terms:
        limits = {"vcpus": self.dice.choice([None, 2, 6, 20])} if self.dice.random() < 0.4 else None
        return Terms(units=self.dice.choice([0, 1, 1, 2, 3]), expandable=self.dice.random() < 0.5, limits=limits)

    # -- hosts: for whoever tells the reconcilers at once

    def host_switch(self) -> None:
        off = Host.objects.exclude(admin_state="enabled")
        if off.exists():
            enable_host(actor=ACTOR, host_id=self._one(off).id)
        else:
            disable_host(actor=ACTOR, host_id=self._one(Host.objects.all()).id)

    def host_drain(self) -> None:
        """A drain is begun; engines carry it out, until the host is drained or somebody enables it."""
        options = DrainOptions(stop=self.dice.random() < 0.5, accept_losses=True)
        plan = propose_drain(actor=ACTOR, host_id=self._one(Host.objects.all()).id, options=options)
        apply_plan(actor=ACTOR, plan_id=plan.id)

    # -- dice

    def _one(self, rows: Any) -> Any:
        ids = list(rows.order_by("pk").values_list("pk", flat=True)[:200])
        if not ids:
            raise Nothing
        found = rows.filter(pk=self.dice.choice(ids)).first()
        if found is None:
            raise Nothing
        return found

    def _tenant(self) -> Any:
        return self._one(Tenant.objects.exclude(state="deleted"))

    def _instance(self) -> Any:
        return self._one(Instance.unscoped.exclude(state="deleted"))
