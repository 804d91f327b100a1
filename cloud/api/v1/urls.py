"""The public API's routes, version 1."""

from __future__ import annotations

from django.urls import URLPattern, path

from cloud.api.v1.audit import Audit
from cloud.api.v1.catalog import Flavors, Images
from cloud.api.v1.decisions import Decisions
from cloud.api.v1.grants import Alarms, Grants
from cloud.api.v1.groups import Groups
from cloud.api.v1.hosts import Hosts
from cloud.api.v1.instances import Instances
from cloud.api.v1.keypairs import Keypairs
from cloud.api.v1.losses import Losses
from cloud.api.v1.me import Me
from cloud.api.v1.members import Members
from cloud.api.v1.migrations import Migrations
from cloud.api.v1.operations import Operations
from cloud.api.v1.plans import Plans
from cloud.api.v1.pools import Pools
from cloud.api.v1.prices import Prices
from cloud.api.v1.quotas import Quotas
from cloud.api.v1.shares import Shares
from cloud.api.v1.tenants import Tenants
from cloud.api.v1.tokens import Tokens
from cloud.api.v1.usage import ShowbackDoor, Usage
from cloud.api.v1.users import Users


def _collection(name: str, door: type, **methods: str) -> URLPattern:
    return path(name, door.as_view({**methods}))  # type: ignore[attr-defined]


urlpatterns = [
    _collection("me", Me, get="list"),
    _collection("tenants", Tenants, get="list", post="create"),
    _collection("tenants/<str:reference>", Tenants, get="retrieve", patch="partial_update", delete="destroy"),
    _collection("tenants/<str:reference>/actions/move", Tenants, post="move"),
    _collection("members", Members, get="list", post="create"),
    _collection("members/<str:reference>", Members, get="retrieve", patch="partial_update", delete="destroy"),
    _collection("tokens", Tokens, get="list", post="create"),
    _collection("tokens/<str:token_id>", Tokens, get="retrieve", delete="destroy"),
    _collection("quotas", Quotas, get="list", patch="partial_update"),
    _collection("users", Users, get="list", post="create"),
    _collection("users/<str:reference>", Users, get="retrieve", patch="partial_update"),
    _collection("pools", Pools, get="list", post="create"),
    _collection("pools/<str:reference>", Pools, get="retrieve", patch="partial_update"),
    _collection("pools/<str:reference>/losses", Losses, get="of_pool"),
    _collection("pools/<str:reference>/capacity", Pools, get="capacity"),
    _collection("hosts", Hosts, get="list"),
    _collection("hosts/join-tokens", Hosts, post="create_join_token"),
    _collection("hosts/<str:reference>", Hosts, get="retrieve", patch="partial_update", delete="destroy"),
    _collection("hosts/<str:reference>/actions/enable", Hosts, post="enable"),
    _collection("hosts/<str:reference>/actions/disable", Hosts, post="disable"),
    _collection("hosts/<str:reference>/actions/prove", Hosts, post="prove"),
    _collection("hosts/<str:reference>/actions/fence", Losses, post="fence"),
    _collection("hosts/<str:reference>/actions/evacuate", Losses, post="evacuate"),
    _collection("hosts/<str:reference>/actions/return", Losses, post="give_back"),
    _collection("hosts/<str:reference>/actions/drain", Plans, post="drain"),
    _collection("hosts/<str:reference>/loss", Losses, get="show"),
    _collection("hosts/<str:reference>/shares", Shares, get="of_host"),
    _collection("flavors", Flavors, get="list", post="create"),
    _collection("flavors/<str:reference>", Flavors, get="retrieve"),
    _collection("images", Images, get="list"),
    _collection("images/<str:reference>", Images, get="retrieve"),
    _collection("keypairs", Keypairs, get="list", post="create"),
    _collection("keypairs/<str:reference>", Keypairs, get="retrieve", delete="destroy"),
    _collection("groups", Groups, get="list", post="create"),
    _collection("groups/<str:reference>", Groups, get="retrieve", delete="destroy"),
    _collection("instances", Instances, get="list", post="create"),
    _collection("instances/<str:reference>", Instances, get="retrieve", delete="destroy"),
    _collection("instances/<str:reference>/actions/prioritize", Losses, post="prioritize"),
    _collection("instances/<str:reference>/actions/start", Instances, post="start"),
    _collection("instances/<str:reference>/actions/stop", Instances, post="stop"),
    _collection("instances/<str:reference>/actions/reboot", Instances, post="reboot"),
    _collection("instances/<str:reference>/actions/lease", Instances, post="lease"),
    _collection("instances/<str:reference>/actions/resize", Instances, post="resize"),
    _collection("instances/<str:reference>/actions/migrate", Instances, post="migrate"),
    _collection("instances/<str:reference>/actions/move", Instances, post="move"),
    _collection("instances/<str:reference>/actions/contract", Plans, post="contract"),
    _collection("instances/<str:reference>/console-log", Instances, get="console_log"),
    _collection("instances/<str:reference>/decision", Instances, get="decision"),
    _collection("migrations", Migrations, get="list"),
    _collection("migrations/<str:migration_id>", Migrations, get="retrieve"),
    _collection("plans", Plans, get="list"),
    _collection("plans/<str:plan_id>", Plans, get="retrieve"),
    _collection("plans/<str:plan_id>/actions/apply", Plans, post="apply"),
    _collection("plans/<str:plan_id>/actions/pause", Plans, post="pause"),
    _collection("plans/<str:plan_id>/actions/resume", Plans, post="resume"),
    _collection("plans/<str:plan_id>/actions/abort", Plans, post="abort"),
    _collection("operations", Operations, get="list"),
    _collection("operations/<str:operation_id>", Operations, get="retrieve"),
    _collection("operations/<str:operation_id>/cancel", Operations, post="cancel"),
    _collection("operations/<str:operation_id>/retry", Operations, post="retry"),
    _collection("decisions", Decisions, get="list"),
    _collection("decisions/<str:decision_id>", Decisions, get="retrieve"),
    _collection("decisions/<str:decision_id>/hosts", Decisions, get="hosts"),
    _collection("usage", Usage, get="list"),
    _collection("usage/showback", ShowbackDoor, get="list"),
    _collection("usage/shares", Shares, get="of_tenant"),
    _collection("prices", Prices, get="list", post="create"),
    _collection("prices/<str:price_id>", Prices, delete="destroy"),
    _collection("grants", Grants, get="list", post="create"),
    _collection("grants/<str:grant_id>", Grants, get="retrieve", patch="partial_update", delete="destroy"),
    _collection("alarms", Alarms, get="list"),
    _collection("audit", Audit, get="list"),
]
