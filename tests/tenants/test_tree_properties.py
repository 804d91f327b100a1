"""Properties of tree and ledger, for any tree and any history."""

from __future__ import annotations

import contextlib

import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from tenants import roles, selectors
from tenants.errors import Conflict, LedgerMismatch, QuotaExceeded
from tenants.models import Quota, Tenant
from tenants.services import quotas
from tenants.services.access import actor_for_user, is_allowed, standing, visible_tenant_ids
from tenants.services.moves import move_tenant
from tests.factories.tenants import SYSTEM, make_member, make_tenant, make_user

RESOURCES = ("instances", "vcpus")

# A tree as a list: entry n is the parent of tenant n + 1, taken modulo what exists by then.
TREES = st.lists(st.integers(0, 50), max_size=7)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "charge", "release", "limit", "move"]),
        st.integers(0, 50),
        st.sampled_from(RESOURCES),
        st.integers(0, 6),
    ),
    max_size=25,
)

NUMBER = st.integers(0, 50)
GIVEN_ROLES = st.lists(st.tuples(NUMBER, NUMBER, st.sampled_from(roles.ROLES)), max_size=8)


def plant(shape):
    nodes = [make_tenant()]
    for parent in shape:
        nodes.append(make_tenant(parent=nodes[parent % len(nodes)]))
    return nodes


def line(node, by_id):
    """The tenant and its ancestors by following parents one at a time: the definition that `path` must agree with."""
    found = [node]
    while found[-1].parent_id is not None:
        found.append(by_id[found[-1].parent_id])
    return found


class TreeAndLedger(TestCase):
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(shape=TREES)
    def test_paths_agree_with_parents(self, shape):
        nodes = plant(shape)
        by_id = {node.id: node for node in nodes}
        for node in nodes:
            upwards = [level.id for level in line(node, by_id)]
            assert [level.id for level in node.ancestors(include_self=True)] == upwards[::-1]
            assert [level.id for level in node.ancestors()] == upwards[:0:-1]
            below = {other.id for other in nodes if node.id in [level.id for level in line(other, by_id)]}
            assert set(node.descendants(include_self=True).values_list("id", flat=True)) == below
            assert set(node.descendants().values_list("id", flat=True)) == below - {node.id}

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(shape=TREES, steps=STEPS)
    def test_ledger_is_always_the_sum_of_what_is_held_and_never_grows_past_a_limit(self, shape, steps):
        nodes = plant(shape)
        by_id = {node.id: node for node in nodes}
        held = {(node.id, resource): 0 for node in nodes for resource in RESOURCES}
        limits = dict.fromkeys(held)

        def total(node, resource):
            return sum(held[other.id, resource] for other in nodes if node in line(other, by_id))

        for verb, index, resource, amount in steps:
            node = nodes[index % len(nodes)]
            if verb == "charge":
                fits = amount == 0 or all(
                    limits[level.id, resource] is None or total(level, resource) + amount <= limits[level.id, resource]
                    for level in line(node, by_id)
                )
                if fits:
                    quotas.charge(tenant=node, amounts={resource: amount})
                    held[node.id, resource] += amount
                else:
                    with pytest.raises(QuotaExceeded):
                        quotas.charge(tenant=node, amounts={resource: amount})
            elif verb == "release":
                # The ledger knows sums, so only a level that would go below zero is refused.
                if amount <= held[node.id, resource]:
                    quotas.release(tenant=node, amounts={resource: amount})
                    held[node.id, resource] -= amount
                elif amount > total(node, resource):
                    with pytest.raises(LedgerMismatch):
                        quotas.release(tenant=node, amounts={resource: amount})
            elif verb == "move":
                self._move(nodes, node, nodes[amount % len(nodes)], by_id, total, limits)
            else:
                limit = None if amount == 6 else amount
                quotas.set_limit(actor=SYSTEM, tenant=node, resource=resource, limit=limit)
                limits[node.id, resource] = limit
        for row in Quota.unscoped.filter(resource__in=RESOURCES):
            assert row.used == total(by_id[row.tenant_id], row.resource)
            assert row.limit == limits[row.tenant_id, row.resource]
        assert selectors.ledger_faults({key: amount for key, amount in held.items() if amount}) == []

    def _move(self, nodes, node, target, by_id, total, limits):
        """Move and judge by the definition: what may not be, and which levels are entered."""
        below = node in line(target, by_id)
        entered = [level for level in line(target, by_id) if level not in line(node, by_id)[1:]]
        fits = all(
            limits[level.id, resource] is None
            or total(node, resource) == 0
            or total(level, resource) + total(node, resource) <= limits[level.id, resource]
            for level in entered
            for resource in RESOURCES
        )
        if below or not fits:
            with pytest.raises(Conflict if below else QuotaExceeded):
                move_tenant(actor=SYSTEM, tenant=node, parent=target)
            return
        move_tenant(actor=SYSTEM, tenant=node, parent=target)
        for other in nodes:
            other.refresh_from_db()

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(shape=TREES, given_roles=GIVEN_ROLES, moves=st.lists(st.tuples(NUMBER, NUMBER), max_size=3))
    def test_the_role_that_counts_is_the_strongest_along_the_path(self, shape, given_roles, moves):
        nodes = plant(shape)
        users = [make_user() for _ in range(3)]
        held = {}
        for who, where, role in given_roles:
            user, node = users[who % 3], nodes[where % len(nodes)]
            if (user.id, node.id) not in held:
                make_member(node, role, user)
                held[user.id, node.id] = role
        for what, where in moves:
            with contextlib.suppress(Conflict):
                move_tenant(actor=SYSTEM, tenant=nodes[what % len(nodes)], parent=nodes[where % len(nodes)])
        by_id = {node.id: node for node in Tenant.objects.all()}
        for user in users:
            actor = actor_for_user(user=user)
            reached = {item.tenant.id: item.role for item in selectors.belongings(user)}
            for node in by_id.values():
                along = [held[user.id, level.id] for level in line(node, by_id) if (user.id, level.id) in held]
                strongest = max(along, key=roles.ROLES.index, default=None)
                assert standing(actor=actor, tenant=node).role == strongest
                assert reached.get(node.id) == strongest
                for permission in ("instance.read", "instance.create", "tenant.move", "tenant.delete"):
                    expected = strongest is not None and permission in roles.PERMISSIONS_BY_ROLE[strongest]
                    assert is_allowed(actor, permission, node) == expected
                    assert (node.id in visible_tenant_ids(actor, permission)) == expected


@pytest.mark.django_db
def test_path_that_does_not_end_with_parent_and_self_is_refused_by_the_database():
    one, two = make_tenant(), make_tenant()
    child = make_tenant(parent=one)
    for path, parent in (
        ([two.id, child.id], one),
        ([one.id], one),
        ([child.id], one),
        ([one.id, child.id], None),
        ([], one),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Tenant.objects.filter(id=child.id).update(path=path, parent=parent)
