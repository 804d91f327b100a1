"""services/tokens.py: made, shown once, checked, revoked."""

from __future__ import annotations

import datetime as dt
import functools

import pytest
from django.db import connection
from django.utils import timezone

from tenants.errors import InvalidInput, NotFound, PermissionDenied, QuotaExceeded, TokenInvalid
from tenants.models import ApiToken, Quota
from tenants.services import tokens
from tenants.services.access import actor_for_user
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner():
    return make_user()


@pytest.fixture
def tenant(owner):
    return make_tenant(owner=owner)


def used(tenant):
    return Quota.unscoped.get(tenant=tenant, resource="tokens").used


def in_days(days):
    return timezone.now() + dt.timedelta(days=days)


def test_text_opens_the_door_as_its_user_in_its_tenant(owner, tenant):
    token, text = tokens.create_token(actor=actor_for_user(user=owner), user=owner, tenant=tenant, name="ci")
    actor = tokens.authenticate_token(text=text, request_id="r1")
    assert (actor.user_id, actor.tenant_id, actor.token_id) == (owner.id, tenant.id, token.id)
    assert (actor.kind, actor.scope, actor.request_id) == ("token", "full", "r1")


def test_the_secret_is_nowhere_in_the_database(owner, tenant):
    _, text = tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, name="ci")
    secret = text.split("_")[2]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM tenants_apitoken t WHERE t::text LIKE %(s)s OR encode(digest, 'escape') LIKE %(s)s",
            {"s": f"%{secret}%"},
        )
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT count(*) FROM tenants_auditevent a WHERE a::text LIKE %s", [f"%{secret}%"])
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text.upper(),
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: "cnt_aaaaaaaaaaaa_" + text.split("_")[2],
        lambda text: text + "\n",
        lambda text: "\ud800" + text,
        lambda text: "x" * 100_000,
    ],
)
def test_spoilt_text_is_refused(owner, tenant, spoil):
    text = make_token(owner, tenant)
    with pytest.raises(TokenInvalid):
        tokens.authenticate_token(text=spoil(text))


def test_every_reason_to_refuse_sounds_the_same(owner, tenant):
    def dead(**change):
        text = make_token(owner, tenant)
        ApiToken.unscoped.filter(prefix=text.split("_")[1]).update(**change)
        return text

    texts = [
        "nonsense",
        dead(revoked_at=timezone.now()),
        dead(expires_at=in_days(-1)),
        dead(digest=b"0" * 32),
        dead(tenant=None),
    ]
    texts.append(make_token(owner, tenant))
    owner.is_active = False
    owner.save()
    seen = set()
    for text in texts:
        with pytest.raises(TokenInvalid) as caught:
            tokens.authenticate_token(text=text)
        seen.add((caught.value.code, caught.value.detail, str(caught.value.data)))
    assert len(seen) == 1


def test_last_use_is_noted_at_most_once_a_minute(owner, tenant, django_assert_num_queries):
    text = make_token(owner, tenant)
    with django_assert_num_queries(3):  # token and user together, and the note
        tokens.authenticate_token(text=text)
    first = ApiToken.unscoped.get(tenant=tenant).last_used_at
    assert first is not None
    with django_assert_num_queries(2):
        tokens.authenticate_token(text=text)
    ApiToken.unscoped.update(last_used_at=first - dt.timedelta(seconds=61))
    tokens.authenticate_token(text=text)
    assert ApiToken.unscoped.get(tenant=tenant).last_used_at >= first


def test_operators_token_has_no_tenant_and_dies_with_the_power():
    user = make_user(is_operator=True)
    _, text = tokens.create_token(actor=actor_for_user(user=user), user=user, tenant=None, name="ops")
    assert tokens.authenticate_token(text=text).is_operator
    user.is_operator = False
    user.save()
    with pytest.raises(TokenInvalid):
        tokens.authenticate_token(text=text)


def test_who_may_make_which_token(owner, tenant):
    viewer = make_user()
    make_member(tenant, "viewer", viewer)
    make = functools.partial(tokens.create_token, name="t")
    make(actor=actor_for_user(user=viewer), user=viewer, tenant=tenant)
    with pytest.raises(PermissionDenied):
        make(actor=actor_for_user(user=viewer), user=owner, tenant=tenant)
    with pytest.raises(PermissionDenied):
        make(actor=actor_for_user(user=owner), user=viewer, tenant=tenant)
    with pytest.raises(PermissionDenied):
        make(actor=actor_for_user(user=owner), user=owner, tenant=None)
    operator = make_actor(is_operator=True)
    make(actor=operator, user=viewer, tenant=tenant)
    with pytest.raises(InvalidInput):
        make(actor=operator, user=make_user(), tenant=tenant)
    with pytest.raises(InvalidInput):
        make(actor=operator, user=viewer, tenant=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("scope", "root"),
        ("expires_at", dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        ("expires_at", dt.datetime(2999, 1, 1)),  # noqa: DTZ001
    ],
)
def test_wrong_field_is_named(owner, tenant, field, value):
    with pytest.raises(InvalidInput) as caught:
        tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, **{"name": "t", field: value})
    assert caught.value.errors[0]["pointer"] == f"/{field}"


def test_token_cannot_outgrow_or_outlive_the_token_that_made_it(owner, tenant):
    _, text = tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, name="short", expires_at=in_days(1))
    actor = tokens.authenticate_token(text=text)
    make = functools.partial(tokens.create_token, actor=actor, user=owner, name="t")
    for expires_at in (None, in_days(2)):
        with pytest.raises(InvalidInput):
            make(tenant=tenant, expires_at=expires_at)
    make(tenant=tenant, expires_at=in_days(0.5))
    with pytest.raises(NotFound):
        make(tenant=make_tenant(owner=owner), expires_at=in_days(0.5))
    reader = tokens.authenticate_token(text=make_token(owner, tenant, scope="read"))
    with pytest.raises(PermissionDenied):
        tokens.create_token(actor=reader, user=owner, tenant=tenant, name="t", scope="read")


def test_tokens_are_counted_and_revoking_gives_back_once(owner):
    tenant = make_tenant(owner=owner, limits={"tokens": 1})
    token, text = tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, name="t")
    with pytest.raises(QuotaExceeded):
        make_token(owner, tenant)
    for _ in range(2):
        tokens.revoke_token(actor=actor_for_user(user=owner), token=token)
    assert used(tenant) == 0
    with pytest.raises(TokenInvalid):
        tokens.authenticate_token(text=text)


def test_anothers_token_is_revoked_by_admins_only(owner, tenant):
    token, _ = tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, name="t")
    with pytest.raises(PermissionDenied):
        tokens.revoke_token(actor=make_actor("operator", tenant), token=token)
    with pytest.raises(NotFound):
        tokens.revoke_token(actor=make_actor(), token=token)
    tokens.revoke_token(actor=make_actor("admin", tenant), token=token)


def test_operators_token_is_revoked_by_operators_only():
    user = make_user(is_operator=True)
    token, _ = tokens.create_token(actor=SYSTEM, user=user, tenant=None, name="ops")
    with pytest.raises(PermissionDenied):
        tokens.revoke_token(actor=make_actor("owner", make_tenant()), token=token)
    tokens.revoke_token(actor=make_actor(is_operator=True), token=token)


@pytest.mark.django_db(transaction=True)
def test_revoked_by_many_at_once_gives_the_quota_back_once(at_once):
    owner = make_user()
    tenant = make_tenant(owner=owner)
    make_token(owner, tenant)
    token, _ = tokens.create_token(actor=SYSTEM, user=owner, tenant=tenant, name="t")
    results = at_once(*[functools.partial(tokens.revoke_token, actor=SYSTEM, token=token)] * 6)
    assert results == [None] * 6
    assert used(tenant) == 1
