"""Whatever is sent, the answer is a clear 4xx problem and nothing has changed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from django.test import Client

from compute.models import Instance, Operation
from tenants.models import ApiToken, AuditEvent
from tests.api.conftest import Caller, World
from tests.api.matrix import ROWS

NOBODY = "0192aaaa-0000-7000-8000-000000000001"

WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"nosuch": 1}, "/nosuch"),
    ({"tenant_id": NOBODY}, "/tenant_id"),
    ({"host": "lab-1"}, "/host"),
    ({"state": "active"}, "/state"),
    ({"name": 7}, "/name"),
    ({"name": None}, "/name"),
    ({"name": ""}, "/name"),
    ({"name": "</name>"}, "/name"),
    ({"name": "web\n"}, "/name"),
    ({"name": "-web"}, "/name"),
    ({"name": "x" * 64}, "/name"),
    ({"name": "wéb"}, "/name"),
    ({"name": ["web"]}, "/name"),
    ({"flavor": "nosuch"}, "/flavor"),
    ({"flavor": NOBODY}, "/flavor"),
    ({"image": "nosuch"}, "/image"),
    ({"image": {}}, "/image"),
    ({"pool": "nosuch"}, "/pool"),
    ({"kind": "container"}, "/kind"),
    ({"kind": "jail"}, "/kind"),
    ({"count": 0}, "/count"),
    ({"count": 101}, "/count"),
    ({"count": "2"}, "/count"),
    ({"count": True}, "/count"),
    ({"count": 1.5}, "/count"),
    ({"count": 10**400}, "/count"),
    ({"keypairs": "laptop"}, "/keypairs"),
    ({"keypairs": ["nosuch"]}, "/keypairs/0"),
    ({"keypairs": [1]}, "/keypairs/0"),
    ({"keypairs": ["a"] * 21}, "/keypairs"),
    ({"group": "nosuch"}, "/group"),
    ({"group": 1}, "/group"),
    ({"tags": []}, "/tags"),
    ({"tags": {"a": 1}}, "/tags/a"),
    ({"tags": {"a b": "c"}}, "/tags"),
    ({"tags": {"a": "\x1b[2J"}}, "/tags/a"),
    ({"tags": {f"k{number}": "v" for number in range(33)}}, "/tags"),
    ({"user_data": 1}, "/user_data"),
    ({"user_data": "\x07"}, "/user_data"),
    ({"user_data": "x" * 65_536}, "/user_data"),
    ({"lease": 3600}, "/lease"),
    ({"lease": {}}, "/lease"),
    ({"lease": {"seconds": 3600, "ends_at": "2050-01-01T00:00:00Z"}}, "/lease"),
    ({"lease": {"seconds": 59}}, "/lease/seconds"),
    ({"lease": {"seconds": 315_360_001}}, "/lease/seconds"),
    ({"lease": {"seconds": 2**53}}, "/lease/seconds"),
    ({"lease": {"seconds": "3600"}}, "/lease/seconds"),
    ({"lease": {"ends_at": "2020-01-01T00:00:00Z"}}, "/lease/ends_at"),
    ({"lease": {"ends_at": "2050-01-01T00:00:00"}}, "/lease/ends_at"),
    ({"lease": {"ends_at": "9999-12-31T23:59:59-23:59"}}, "/lease/ends_at"),
    ({"lease": {"ends_at": "soon"}}, "/lease/ends_at"),
    ({"lease": {"ends_at": None}}, "/lease/ends_at"),
    ({"lease": {"seconds": 3600, "action": "explode"}}, "/lease/action"),
    ({"lease": {"seconds": 3600, "nosuch": 1}}, "/lease/nosuch"),
    ({"tenant": "nosuch"}, "/tenant"),
    ({"tenant": 1}, "/tenant"),
]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    WRONG_FIELDS,
    ids=[f"{number}-{'-'.join(fields)}" for number, (fields, _) in enumerate(WRONG_FIELDS)],
)
def test_a_wrong_field_is_named(world: World, fields: dict[str, Any], pointer: str) -> None:
    events = AuditEvent.unscoped.count()
    response = world.owner("POST", "instances", world.order(**fields))
    assert response.status_code == 400, response.content.decode()
    problem = response.json()
    assert problem["code"] == "invalid_input"
    assert pointer in [error["pointer"] for error in problem["errors"]], problem
    assert not Instance.unscoped.exists()
    assert AuditEvent.unscoped.count() == events


def test_missing_fields_are_named_together(world: World) -> None:
    problem = world.owner.ok("POST", "instances", {}, status=400)
    assert {error["pointer"]: error["code"] for error in problem["errors"]} == {
        "/name": "required",
        "/flavor": "required",
        "/image": "required",
    }


BODIES: list[tuple[bytes, int, str]] = [
    (b"{", 400, "parse_error"),
    (b"[]", 400, "parse_error"),
    (b'"text"', 400, "parse_error"),
    (b"null", 400, "parse_error"),
    (b'{"name": NaN}', 400, "parse_error"),
    (b'{"name": "a", "name": "b"}', 400, "parse_error"),
    (b'{"name": "\xff"}', 400, "parse_error"),
    (b'{"name": "\\ud800"}', 400, "parse_error"),
    (b'{"name": "a\\u0000b"}', 400, "parse_error"),
    (b'{"count": ' + b"9" * 5000 + b"}", 400, "parse_error"),
    (b'{"tags": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "parse_error"),
    (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400, "parse_error"),
    (b'{"name": "' + b"x" * 1_100_000 + b'"}', 413, "body_too_large"),
    (b"[" * 10_000_000, 413, "body_too_large"),
]


@pytest.mark.parametrize(
    ("body", "status", "code"), BODIES, ids=[f"{body[:24]!r}-{len(body)}" for body, _, _ in BODIES]
)
def test_an_unreadable_body_is_refused_quickly(world: World, body: bytes, status: int, code: str) -> None:
    began = time.monotonic()
    response = world.owner("POST", "instances", body)
    assert response.status_code == status, response.content.decode()
    assert response.json()["code"] == code
    assert time.monotonic() - began < 1
    assert not Instance.unscoped.exists()


def test_brackets_inside_a_text_are_no_depth(world: World) -> None:
    world.owner.ok("POST", "instances", world.order(user_data="#!/bin/sh\n" + '[[{"\\' * 200), status=202)


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_other_media_types_are_refused(world: World, media: str) -> None:
    client = Client(headers={"Authorization": f"Bearer {world.owner.token}"})
    response = client.generic("POST", "/api/v1/instances", "name=web", content_type=media)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported_media_type"


NOUNS = [
    "instances",
    "tenants",
    "members",
    "tokens",
    "keypairs",
    "operations",
    "decisions",
    "flavors",
    "images",
    "pools",
]

QUERIES = [
    "nosuch=1",
    "tenant__name=acme",
    "owner__password__regex=.",
    "_connector=OR",
    "ordering=owner__password",
    "name__regex=.",
    "limit=0",
    "limit=201",
    "limit=-1",
    "limit=x",
    "limit=%D9%A3",
    "limit=1&limit=2",
    "cursor=x",
    "cursor=",
    "cursor=W10",
    "cursor=%00",
    "state=nosuch",
    "kind=jail",
    "tenant=nosuch",
    "search=%00",
    "search=%1b",
    "name=" + "x" * 300,
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_wrong_query_is_refused(world: World, query: str) -> None:
    response = world.owner("GET", f"instances?{query}")
    assert response.status_code == 400, response.content.decode()
    assert response.json()["code"] == "invalid_input"


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.method == "GET"))
def test_no_list_passes_a_query_on_to_the_database(name: str, world: World) -> None:
    path = {"tenant_show": "tenants/acme"}.get(name) or name.removesuffix("_list").removesuffix("_show") + "s"
    path = {"mes": "me", "audits": "audit", "quotas": "quotas"}.get(path, path)
    for query in ("tenant__path__contains=x", "user__password__startswith=a", "id__in=1", "_negated=1"):
        response = world.operator("GET", f"{path}?{query}")
        assert response.status_code in (400, 404), (path, query, response.content.decode())


@pytest.mark.parametrize(
    "reference", ["%00", "a%00b", "%ff", "%1b", "..%2f..", "x" * 300, "%F0%9F%92%A9", "' OR 1=1 --", "{}"]
)
@pytest.mark.parametrize("noun", NOUNS)
def test_a_strange_name_is_the_name_of_nothing(world: World, noun: str, reference: str) -> None:
    response = world.owner("GET", f"{noun}/{reference}")
    assert response.status_code == 404, response.content.decode()
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("reference", ["%00", "x" * 300])
@pytest.mark.parametrize("noun", ["hosts", "users"])
def test_a_strange_name_is_nothing_for_operators_too(world: World, noun: str, reference: str) -> None:
    assert world.operator("GET", f"{noun}/{reference}").status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Basic dXNlcjpwdw==",
        "Bearer cnt_aaaaaaaaaaaa_" + "0" * 64,
        "Token abc",
        "Bearer a b c",
        "Bearer " + "x" * 5000,
        "Bearer caf\xe9",
    ],
)
def test_a_wrong_token_is_refused_and_never_repeated(world: World, header: str) -> None:
    response = Client(headers={"Authorization": header}).get("/api/v1/instances")
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert response["Content-Type"] == "application/problem+json"
    secret = header.partition(" ")[2]
    assert len(secret) < 4 or secret not in response.content.decode()


def test_an_expired_and_a_revoked_token_look_like_an_unknown_one(world: World) -> None:
    unknown = Caller("cnt_aaaaaaaaaaaa_" + "0" * 64).ok("GET", "me", status=401)
    ApiToken.unscoped.filter(user=world.mine["viewer"].user).update(expires_at="2020-01-01T00:00:00Z")
    ApiToken.unscoped.filter(user=world.mine["admin"].user).update(revoked_at="2020-01-01T00:00:00Z")
    for role in ("viewer", "admin"):
        problem = world.mine[role].ok("GET", "me", status=401)
        assert {**problem, "request_id": ""} == {**unknown, "request_id": ""}


def test_a_cookie_is_no_token(world: World) -> None:
    assert world.owner.user is not None
    client = Client()
    client.force_login(world.owner.user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/api/v1/instances").status_code == 401
    assert client.post("/api/v1/instances", world.order(), content_type="application/json").status_code == 401
    assert not Operation.objects.exists()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nosuch", 404, "not_found"),
        ("POST", "instances/", 404, "not_found"),
        ("GET", "", 404, "not_found"),
        ("PUT", "instances", 405, "method_not_allowed"),
        ("DELETE", "instances", 405, "method_not_allowed"),
        ("OPTIONS", "instances", 405, "method_not_allowed"),
        ("TRACE", "instances", 405, "method_not_allowed"),
        ("GET", "instances/web/actions/start", 405, "method_not_allowed"),
    ],
)
def test_what_is_no_route_is_a_problem_too(world: World, method: str, path: str, status: int, code: str) -> None:
    response = world.owner(method, f"/api/v1/{path}")
    assert response.status_code == status, response.content.decode()
    assert response.json()["code"] == code


def test_a_type_that_nobody_speaks_is_406(world: World) -> None:
    assert world.owner("GET", "instances", Accept="text/csv").status_code == 406


@pytest.mark.parametrize("tag", ["7", "x", '"x"', '"1", "2"', '"' + "9" * 30 + '"', '"٣"'])
def test_a_malformed_if_match_is_refused(world: World, tag: str) -> None:
    world.owner.ok("POST", "instances", world.order(), status=202)
    assert world.owner("DELETE", "instances/web", If_Match=tag).status_code == 400


WRONG_LIMITS: list[Any] = [{"nosuch": 1}, {"vcpus": -1}, {"vcpus": 2**60}, []]
ZEROES: list[tuple[str, str, Any]] = [
    ("POST", "flavors", {"name": "f", "vcpus": 2**31, "memory_mib": 16, "disk_gib": 1})
]
ZEROES += [
    ("POST", "flavors", {"name": "f", "vcpus": 1, "memory_mib": 16, "disk_gib": 1, "kind": "vm", **asked})
    for asked in (
        *({"cpu_model": name} for name in ("<cpu/>", "a b", "-x", "x" * 64, 7, None)),
        *({"cpu_flags": flags} for flags in ("avx2", ["avx2", ""], ["a b"], ["a\n"], [7], ["avx2"] * 33)),
        {"cpu_flags": ["avx2"], "kind": "container"},
        *({"numa_nodes": nodes} for nodes in (-1, 9, 2, "1", True, 1.0)),  # 1 vCPU does not spread over 2
        *({"hugepages_kib": size} for size in (4, -2048, 2**31, "2048", 1_048_576)),  # 16 MiB is no page of 1 GiB
        {"hugepages_kib": 2048, "memory_mib": 17},
        {"hugepages_kib": 2048, "kind": "container"},
        {"vcpus": 2, "numa_nodes": 2, "kind": "container"},
        *({"pinned": value} for value in (1, "yes", None)),
    )
]
ZEROES += [
    ("POST", "pools", {"name": "p", "cidr": text}) for text in ("x", "10.0.0.0/33", "10.0.0.1/20", "fd00::/64", "")
]
ZEROES += [
    ("POST", "pools", {"name": "p", "cidr": "10.9.0.0/20", "vcpu_ratio": ratio})
    for ratio in (0, -1, 65, 1e300, "2", True)
]
ZEROES += [("POST", "users", {"username": name}) for name in ("", "a b", "\x7f", "x" * 65, "../x")]
ZEROES += [("POST", "users", {"username": "u", "password": password}) for password in ("short", "password123", 7)]
ZEROES += [("PATCH", "quotas?tenant=acme", {"limits": limits}) for limits in WRONG_LIMITS]
ZEROES += [
    ("POST", "groups", {"name": "g", "tenant": "acme", "rule": "affinity"} | wrong)
    for wrong in ({"name": "G!"}, {"rule": "near"}, {"max_per_domain": 0}, {"max_per_domain": "2"}, {"more": 1})
]
ZEROES += [
    ("POST", "keypairs", {"name": "k", "tenant": "acme", "public_key": key}) for key in ("", "x", "ssh-rsa AAAA", 5)
]
ZEROES += [
    ("POST", "tokens", {"name": "t", "expires_at": at})
    for at in ("yesterday", "2020-01-01T00:00:00Z", "2099-01-01T00:00:00", 5)
]
ZEROES += [("POST", "tokens", {"name": "t", "scope": "all"}), ("POST", "tokens", {"name": "a\nb"})]
ZEROES += [("POST", "members", {"user": "nosuch", "role": "viewer", "tenant": "acme"})]
ZEROES += [("POST", "members", {"user": "nosuch", "role": "god", "tenant": "acme"})]
ZEROES += [("POST", "tenants", {"name": name}) for name in ("a/b", " a", "", "x" * 64, "\x00")]


@pytest.mark.parametrize(
    ("method", "path", "body"), ZEROES, ids=[f"{path}-{json.dumps(body)[:50]}" for _, path, body in ZEROES]
)
def test_even_an_operators_wrong_input_is_a_400(world: World, method: str, path: str, body: Any) -> None:
    events = AuditEvent.unscoped.count()
    response = world.operator(method, path, body)
    assert response.status_code == 400, response.content.decode()
    assert response.json()["code"] == "parse_error" or response.json()["errors"]
    assert AuditEvent.unscoped.count() == events
