"""Moves under real concurrency: no charge is lost on the way, nobody goes round in a circle, nothing deadlocks."""

from __future__ import annotations

import functools
import random
import threading
import uuid

import pytest
from django.db import transaction
from django.db.models import QuerySet

from tenants import selectors
from tenants.errors import Conflict, DomainError
from tenants.models import Quota, Tenant, UsageSegment
from tenants.services import members, metering, quotas, tenants, tokens, tree
from tenants.services.moves import move_tenant
from tests.factories.tenants import SYSTEM, make_member, make_tenant, make_user

USAGE = metering.Usage(
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
pytestmark = pytest.mark.django_db(transaction=True)


def used(tenant, resource="instances"):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


def _charge_while_moving(at_once):
    """One transaction has charged and not yet committed when the move begins; returns what the books say of it.

    The charge waits for the move to be under way (or, where the lock holds it back, for half a second): the worst moment.
    """
    west, east = make_tenant("west"), make_tenant("east")
    team = make_tenant("team", parent=west)
    charged, moved = threading.Event(), threading.Event()

    def charge():
        with transaction.atomic():
            quotas.charge(tenant=team, amounts={"instances": 1})
            charged.set()
            moved.wait(timeout=0.5)

    def move():
        charged.wait(timeout=10)
        move_tenant(actor=SYSTEM, tenant=team, parent=east)
        moved.set()

    results = at_once(charge, move)
    return results, [used(west), used(east), used(team)]


def test_a_charge_under_way_is_part_of_what_moves(at_once):
    results, books = _charge_while_moving(at_once)
    assert results == [None, None]
    assert books == [0, 1, 1]


def test_control_without_the_lock_on_the_tree_the_charge_is_left_behind(at_once, monkeypatch):
    """Shows that the set-up above is a race: the books of the old parent keep what has gone."""
    monkeypatch.setattr(tree, "HOLD_SQL", "SELECT 1;")
    # The tenant's own quota row would still hold the move back: the charge keeps it locked. So the move reads first.
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, **options: self)
    results, books = _charge_while_moving(at_once)
    assert books != [0, 1, 1], (results, books)


def test_a_charge_that_waited_for_the_move_goes_up_the_new_path(at_once):
    west, east = make_tenant("west"), make_tenant("east")
    team = make_tenant("team", parent=west)
    moved = threading.Event()

    def move():
        with transaction.atomic():
            move_tenant(actor=SYSTEM, tenant=team, parent=east)
            moved.set()
            threading.Event().wait(0.3)

    def charge():
        moved.wait(timeout=10)
        with transaction.atomic():
            quotas.charge(tenant=team, amounts={"instances": 1})

    assert at_once(move, charge) == [None, None]
    assert [used(west), used(east), used(team)] == [0, 1, 1]


def _cross(at_once):
    """Two tenants are moved below each other at the same time."""
    one, two = make_tenant(), make_tenant()
    return at_once(
        functools.partial(move_tenant, actor=SYSTEM, tenant=one, parent=two),
        functools.partial(move_tenant, actor=SYSTEM, tenant=two, parent=one),
    )


def test_two_moves_below_each_other_make_no_circle(at_once):
    for _ in range(5):
        results = _cross(at_once)
        assert sum(isinstance(result, Conflict) and result.data["reason"] == "cycle" for result in results) == 1
        _check_paths()


def _check_paths():
    rows = {row.id: row for row in Tenant.objects.all()}
    for row in rows.values():
        above = [] if row.parent_id is None else rows[row.parent_id].path
        assert row.path == [*above, row.id]


def test_control_moves_that_do_not_exclude_each_other_can_make_a_circle(at_once, monkeypatch):
    """Shows that the set-up above is a race: with each looking at the tree before the other has moved, paths and parents
    disagree, which no row's own CHECK can see."""
    monkeypatch.setattr(tree, "hold_alone", lambda: None)
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, **options: self)
    looked = threading.Barrier(2)
    honest = quotas.transfer

    def slow_transfer(**arguments):
        looked.wait(timeout=5)
        honest(**arguments)

    def cross_again_and_again():
        # Where one's statement is over before the other's begins, the other's makes a path with a circle, which CHECK refuses.
        for _ in range(20):
            _cross(at_once)
            _check_paths()

    monkeypatch.setattr(quotas, "transfer", slow_transfer)
    with pytest.raises(AssertionError):
        cross_again_and_again()


def test_moves_charges_members_tokens_and_deletions_together_leave_true_books(at_once):
    """Everything that locks tenants and the tree, at random and at once: no deadlock, and the books are right."""
    top = make_tenant("top")
    places = [make_tenant(parent=top) for _ in range(3)]
    teams = [make_tenant(parent=places[n % 3]) for n in range(4)]
    squads = [make_tenant(parent=team) for team in teams]
    users = [make_user() for _ in range(4)]
    held = dict.fromkeys([(squad.id, "instances") for squad in squads], 0)
    guard = threading.Lock()

    def one(seed, dice):
        verb = dice.choice(["move", "charge", "charge", "charge", "member", "token", "born"])
        squad = dice.choice(squads)
        if verb == "move":
            target = dice.choice([*places, *teams])
            move_tenant(actor=SYSTEM, tenant=dice.choice(teams), parent=target)
        elif verb == "charge":
            with transaction.atomic():
                quotas.charge(tenant=squad, amounts={"instances": 1})
            with guard:
                held[squad.id, "instances"] += 1
        elif verb == "member":
            user = users[seed % 4]
            members.add_member(actor=SYSTEM, tenant=dice.choice([squad, *teams]), user=user, role="viewer")
            members.remove_member(actor=SYSTEM, tenant=squad, user=user)
        elif verb == "token":
            user = make_member(squad, "viewer").user
            token, _ = tokens.create_token(actor=SYSTEM, user=user, tenant=squad, name="t")
            if dice.random() < 0.5:
                tokens.revoke_token(actor=SYSTEM, token=token)
        else:
            child = make_tenant(parent=dice.choice([squad, *teams]))
            if dice.random() < 0.7:
                tenants.delete_tenant(actor=SYSTEM, tenant=child)

    def churn(seed):
        dice = random.Random(seed)
        for _ in range(15):
            try:
                one(seed, dice)
            except DomainError:
                continue
        return "done"

    assert at_once(*[functools.partial(churn, seed) for seed in range(6)]) == ["done"] * 6
    _check_paths()
    assert selectors.ledger_faults({key: amount for key, amount in held.items() if amount}) == []


def _run_while_moving(at_once):
    """An instance comes up, and begins to be billed, while its tenant moves; returns its open segment."""
    west, east = make_tenant(), make_tenant()
    team = make_tenant(parent=west)
    consumer = uuid.uuid4()
    with transaction.atomic():
        metering.hold(tenant=team, usage=USAGE, consumers=[(consumer, "web")])
    moved = threading.Event()

    def move():
        with transaction.atomic():
            move_tenant(actor=SYSTEM, tenant=team, parent=east)
            moved.set()
            threading.Event().wait(0.3)

    def commit():
        moved.wait(timeout=10)
        with transaction.atomic():
            metering.commit(consumer_id=consumer)

    assert at_once(move, commit) == [None, None]
    return UsageSegment.unscoped.get(consumer_id=consumer, ended_at=None)


def test_what_comes_up_during_a_move_is_billed_at_the_new_place(at_once):
    segment = _run_while_moving(at_once)
    assert len(segment.payers) == 2
    assert segment.billed_from is not None


def test_control_without_the_lock_on_the_tree_it_is_never_billed(at_once, monkeypatch):
    monkeypatch.setattr(tree, "HOLD_SQL", "SELECT 1;")
    assert _run_while_moving(at_once).billed_from is None
