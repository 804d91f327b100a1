"""services/moves.py: a tenant with all below it gets another place; books, roles and tokens follow at once."""

from __future__ import annotations

import uuid

import pytest
from django.db import IntegrityError, transaction

from tenants import selectors
from tenants.errors import (
    Conflict,
    NameTaken,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    TenantDisabled,
    TokenInvalid,
    VersionMismatch,
)
from tenants.models import ApiToken, AuditEvent, Quota, Tenant, UsageSegment
from tenants.services import members, metering, quotas, tenants, tokens
from tenants.services.access import actor_for_user, authorize, is_allowed
from tenants.services.moves import move_tenant, plan_move
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token, use

pytestmark = pytest.mark.django_db


def used(tenant, resource="instances"):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


def parents(child):
    return Tenant.objects.get(id=child.id).path[:-1]


@pytest.fixture
def tree():
    """top / (west / team / squad, east): the team holds 3 instances, its squad 2 of them."""
    top = make_tenant("top")
    west, east = make_tenant("west", parent=top), make_tenant("east", parent=top)
    team = make_tenant("team", parent=west)
    squad = make_tenant("squad", parent=team)
    with transaction.atomic():
        use(team, instances=1)
        use(squad, instances=2, vcpus=4)
    return {tenant.name: tenant for tenant in (top, west, east, team, squad)}


def test_use_leaves_the_old_levels_and_enters_the_new_ones(tree):
    move = move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert (move.tenants, move.amounts) == (2, {"instances": 3, "tenants": 2, "vcpus": 4})
    assert [used(tree[name]) for name in ("top", "west", "east", "team", "squad")] == [3, 0, 3, 3, 2]
    assert [used(tree[name], "tenants") for name in ("top", "west", "east", "team")] == [4, 0, 2, 1]
    held = {(tree["team"].id, "instances"): 1, (tree["squad"].id, "instances"): 2, (tree["squad"].id, "vcpus"): 4}
    assert selectors.ledger_faults(held) == []


def test_paths_of_all_below_follow_the_deleted_ones_too(tree):
    gone = make_tenant("gone", parent=tree["squad"])
    tenants.delete_tenant(actor=SYSTEM, tenant=gone)
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    line = [tree[name].id for name in ("top", "east", "team", "squad")]
    assert parents(tree["squad"]) == line[:-1]
    assert parents(gone) == line
    assert Tenant.objects.get(id=tree["team"].id).parent_id == tree["east"].id


def test_what_is_charged_with_an_old_copy_of_the_tenant_goes_up_the_new_path(tree):
    old_copy = tree["squad"]
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    use(old_copy, instances=1)
    assert [used(tree[name]) for name in ("west", "east")] == [0, 4]


def test_without_room_at_the_new_place_it_is_refused_with_all_figures(tree):
    limits = {"instances": 2, "vcpus": 3, "tenants": 100}
    quotas.set_limits(actor=SYSTEM, tenant=tree["east"], limits=limits)
    plan = plan_move(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert [(short.resource, short.limit, short.asked) for short in plan.shortages] == [
        ("instances", 2, 3),
        ("vcpus", 3, 4),
    ]
    with pytest.raises(QuotaExceeded) as caught:
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert caught.value.data["tenant"]["name"] == "east"
    assert {short["resource"] for short in caught.value.data["shortages"]} == {"instances", "vcpus"}
    assert used(tree["west"]) == 3
    assert parents(tree["team"]) == [tree["top"].id, tree["west"].id]


def test_a_limit_above_both_places_is_no_hindrance_however_full(tree):
    quotas.set_limit(actor=SYSTEM, tenant=tree["top"], resource="instances", limit=1)
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert used(tree["top"]) == 3


def test_a_limit_above_what_stays_shrinks_with_the_use_that_left(tree):
    quotas.set_limit(actor=SYSTEM, tenant=tree["west"], resource="instances", limit=1)
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert Quota.unscoped.get(tenant=tree["west"], resource="instances").ceiling == 1


@pytest.mark.parametrize("place", ["team", "squad"])
def test_no_tenant_comes_to_stand_below_itself(tree, place):
    with pytest.raises(Conflict) as caught:
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree[place])
    assert caught.value.data["reason"] == "cycle"


def test_the_database_refuses_a_circle_by_itself(tree):
    team, squad = tree["team"], tree["squad"]
    with pytest.raises(IntegrityError, match="tenant_path_without_circle"), transaction.atomic():
        Tenant.objects.filter(id=team.id).update(parent=squad, path=[*squad.path, team.id])


def test_move_to_the_same_place_changes_nothing(tree):
    move = move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["west"])
    assert (move.amounts, move.access) == ({}, [])
    assert Tenant.objects.get(id=tree["team"].id).version == 1
    assert not AuditEvent.unscoped.filter(action="tenant.move").exists()


def test_names_stay_unique_among_siblings(tree):
    make_tenant("TEAM", parent=tree["east"])
    with pytest.raises(NameTaken):
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])


def test_nothing_moves_to_a_place_that_is_disabled_or_gone(tree):
    tenants.set_tenant_state(actor=SYSTEM, tenant=tree["east"], active=False)
    below = make_tenant("other-top")
    for actor in (SYSTEM, make_actor(is_operator=True)):
        with pytest.raises(TenantDisabled):
            move_tenant(actor=actor, tenant=tree["team"], parent=tree["east"])
    tenants.delete_tenant(actor=SYSTEM, tenant=below)
    with pytest.raises(NotFound):
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=below)


def test_a_stale_version_is_refused(tree):
    with pytest.raises(VersionMismatch):
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"], expected_version=7)


def test_both_parents_have_to_agree(tree):
    team, west, east = tree["team"], tree["west"], tree["east"]
    move_tenant(actor=make_actor("admin", tree["top"]), tenant=team, parent=east)
    move_tenant(actor=make_actor(is_operator=True), tenant=team, parent=west)
    for actor in (make_actor("operator", tree["top"]), make_actor("owner", team)):
        with pytest.raises((PermissionDenied, NotFound)):
            move_tenant(actor=actor, tenant=team, parent=east)
    with pytest.raises(NotFound):
        move_tenant(actor=make_actor("owner", west), tenant=team, parent=east)
    with pytest.raises(PermissionDenied):
        move_tenant(actor=make_actor("owner", tree["top"]), tenant=tree["top"], parent=None)


def test_what_stands_at_the_top_is_decided_by_operators(tree):
    owner = make_actor("owner", tree["top"])
    make_member(tree["team"], "owner")
    with pytest.raises(PermissionDenied):
        move_tenant(actor=owner, tenant=tree["team"], parent=None)
    move_tenant(actor=make_actor(is_operator=True), tenant=tree["team"], parent=None)
    assert parents(tree["team"]) == []
    assert [used(tree[name]) for name in ("top", "west", "team")] == [0, 0, 3]
    assert used(tree["top"], "tenants") == 2


def test_a_top_tenant_needs_an_owner_of_its_own(tree):
    with pytest.raises(Conflict) as caught:
        move_tenant(actor=SYSTEM, tenant=tree["team"], parent=None)
    assert caught.value.data["reason"] == "no_owner"


def test_inherited_roles_change_at_once_and_the_plan_says_whose(tree):
    ann = make_member(tree["west"], "admin").user
    bob = make_member(tree["east"], "operator").user
    cyd = make_member(tree["team"], "viewer", make_member(tree["east"], "admin").user).user
    boss = make_member(tree["top"], "owner").user
    owner = actor_for_user(user=boss)
    expected = sorted(
        [
            (ann.username, "admin", None),
            (bob.username, None, "operator"),
            (cyd.username, "viewer", "admin"),
        ]
    )
    plan = plan_move(actor=owner, tenant=tree["team"], parent=tree["east"])
    assert [(change.username, change.before, change.after) for change in plan.access] == expected
    assert is_allowed(actor_for_user(user=ann), "instance.read", tree["squad"])
    done = move_tenant(actor=owner, tenant=tree["team"], parent=tree["east"])
    assert done.access == plan.access
    assert not is_allowed(actor_for_user(user=ann), "instance.read", tree["squad"])
    assert is_allowed(actor_for_user(user=bob), "instance.create", tree["squad"])
    assert is_allowed(actor_for_user(user=cyd), "tenant.update", tree["squad"])


def test_members_that_the_actor_cannot_see_are_only_counted():
    left, right = make_tenant("left"), make_tenant("right")
    west, east = make_tenant("west", parent=left), make_tenant("east", parent=right)
    team = make_tenant("team", parent=west)
    make_member(left, "viewer")
    make_member(right, "admin")
    mover = make_member(west, "admin").user
    make_member(east, "admin", mover)
    plan = plan_move(actor=actor_for_user(user=mover), tenant=team, parent=east)
    assert (plan.access, plan.hidden_gains, plan.hidden_losses) == ([], 1, 1)
    full = plan_move(actor=SYSTEM, tenant=team, parent=east)
    assert (len(full.access), full.hidden_gains, full.hidden_losses) == (2, 0, 0)


def test_figures_of_levels_that_the_actor_cannot_see_are_kept_back():
    right = make_tenant("right", limits={"instances": 0})
    top = make_tenant("top")
    west, east = make_tenant("west", parent=top), make_tenant("east", parent=right)
    team = make_tenant("team", parent=west)
    use(team, instances=1)
    mover = make_member(top, "admin").user
    make_member(east, "admin", mover)
    with pytest.raises(QuotaExceeded) as caught:
        move_tenant(actor=actor_for_user(user=mover), tenant=team, parent=east)
    assert caught.value.data["tenant"] == {"id": None, "name": None}
    assert caught.value.data["limit"] is None
    assert "right" not in caught.value.detail


@pytest.mark.parametrize("place", ["west", "east"])
def test_nobody_gives_or_takes_a_role_above_their_own_by_a_move(tree, place):
    make_member(tree[place], "owner")
    with pytest.raises(PermissionDenied):
        move_tenant(actor=make_actor("admin", tree["top"]), tenant=tree["team"], parent=tree["east"])
    move_tenant(actor=make_actor("owner", tree["top"]), tenant=tree["team"], parent=tree["east"])


def test_tokens_without_a_role_at_the_new_place_are_revoked_and_given_back(tree):
    ann, bob = make_member(tree["west"], "operator").user, make_member(tree["squad"], "viewer").user
    lost, kept = make_token(ann, tree["squad"]), make_token(bob, tree["squad"])
    assert plan_move(actor=SYSTEM, tenant=tree["team"], parent=tree["east"]).tokens == 1
    move = move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert move.tokens == 1
    with pytest.raises(TokenInvalid):
        tokens.authenticate_token(text=lost)
    authorize(tokens.authenticate_token(text=kept), "instance.read", tree["squad"])
    assert [used(tree[name], "tokens") for name in ("west", "east", "squad")] == [0, 1, 1]
    # It does not wake up when its user comes back.
    members.add_member(actor=SYSTEM, tenant=tree["east"], user=ann, role="viewer")
    with pytest.raises(TokenInvalid):
        tokens.authenticate_token(text=lost)


def test_a_token_moves_nothing_out_of_its_part_of_the_tree(tree):
    owner = make_member(tree["top"], "owner").user
    bound = tokens.authenticate_token(text=make_token(owner, tree["west"]))
    with pytest.raises(NotFound):
        move_tenant(actor=bound, tenant=tree["team"], parent=tree["east"])


def test_old_parent_keeps_the_trace_of_a_tenant_that_left(tree):
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    events = AuditEvent.unscoped.filter(action="tenant.move")
    assert {event.tenant_id for event in events} == {tree["team"].id, tree["west"].id}
    assert {event.after["parent"] for event in events} == {str(tree["east"].id)}


def test_planning_changes_nothing(tree):
    make_token(make_member(tree["west"], "operator").user, tree["squad"])
    before = [list(model.objects.order_by("id").values()) for model in (Tenant,)]
    rows = list(Quota.unscoped.order_by("id").values())
    plan_move(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    assert before == [list(model.objects.order_by("id").values()) for model in (Tenant,)]
    assert rows == list(Quota.unscoped.order_by("id").values())
    assert not ApiToken.unscoped.exclude(revoked_at=None).exists()


def test_strangers_learn_nothing(tree):
    stranger = make_actor("owner", make_tenant())
    for call in (plan_move, move_tenant):
        with pytest.raises(NotFound):
            call(actor=stranger, tenant=tree["team"], parent=tree["east"])


def test_those_at_the_new_place_pay_from_the_move_on(tree):
    running, made, ended = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    usage = metering.Usage(
        consumer_type="instance",
        kind="vm",
        flavor_id=uuid.uuid4(),
        flavor_name="small",
        pool_id=uuid.uuid4(),
        pool_name="lab",
        vcpus=1,
        memory_mib=1,
        disk_gib=1,
    )
    names = [(running, "running"), (made, "made"), (ended, "ended")]
    metering.hold(tenant=tree["squad"], usage=usage, consumers=names)
    metering.commit(consumer_id=running)
    metering.release(consumer_id=ended)
    move_tenant(actor=SYSTEM, tenant=tree["team"], parent=tree["east"])
    old = [tree[name].id for name in ("top", "west", "team", "squad")]
    new = [tree[name].id for name in ("top", "east", "team", "squad")]

    def segments(consumer):
        rows = UsageSegment.unscoped.filter(consumer_id=consumer).order_by("ended_at")
        return [(row.payers, row.ended_at is None, row.billed_from is None) for row in rows]

    assert segments(running) == [(old, False, False), (new, True, False)]
    assert segments(made) == [(old, False, True), (new, True, True)]
    assert segments(ended) == [(old, False, True)]
