"""Routes of the operators' console."""

from django.urls import include, path

from cloud.console.admin import site
from cloud.console.views import (
    books,
    capacity,
    grants,
    hosts,
    losses,
    migrations,
    operations,
    overview,
    pools,
    prices,
    records,
    tenants,
    usage,
    users,
)

pages = [
    path("", overview.overview, name="overview"),
    path("hosts", hosts.index, name="hosts"),
    path("hosts/losses", losses.index, name="host-losses"),
    path("hosts/join", hosts.join, name="host-join"),
    path("hosts/<uuid:host_id>", hosts.detail, name="host"),
    path("hosts/<uuid:host_id>/enable", hosts.act, {"verb": "enable"}, name="host-enable"),
    path("hosts/<uuid:host_id>/disable", hosts.act, {"verb": "disable"}, name="host-disable"),
    path("hosts/<uuid:host_id>/prove", hosts.act, {"verb": "prove"}, name="host-prove"),
    path("hosts/<uuid:host_id>/loss", losses.show, name="host-loss"),
    path("hosts/<uuid:host_id>/fence", losses.act, {"verb": "fence"}, name="host-fence"),
    path("hosts/<uuid:host_id>/vouch", losses.act, {"verb": "vouch"}, name="host-vouch"),
    path("hosts/<uuid:host_id>/evacuate", losses.act, {"verb": "evacuate"}, name="host-evacuate"),
    path("hosts/<uuid:host_id>/return", losses.act, {"verb": "return"}, name="host-return"),
    path("hosts/<uuid:host_id>/remove", hosts.act, {"verb": "remove"}, name="host-remove"),
    path("pools", pools.index, name="pools"),
    path("pools/<uuid:pool_id>/ratio", pools.ratio, name="pool-ratio"),
    path("capacity", capacity.capacity, name="capacity"),
    path("grants", grants.index, name="grants"),
    path("grants/<uuid:grant_id>/change", grants.change, name="grant-change"),
    path("grants/<uuid:grant_id>/end", grants.end, name="grant-end"),
    path("migrations", migrations.index, name="migrations"),
    path("instances/<uuid:instance_id>/migrate", migrations.migrate, name="migrate"),
    path("operations", operations.index, name="operations"),
    path("operations/<uuid:operation_id>", operations.detail, name="operation"),
    path("operations/<uuid:operation_id>/cancel", operations.act, {"verb": "cancel"}, name="operation-cancel"),
    path("operations/<uuid:operation_id>/retry", operations.act, {"verb": "retry"}, name="operation-retry"),
    path("tenants", tenants.index, name="tenants"),
    path("tenants/<uuid:tenant_id>", tenants.detail, name="tenant"),
    path("tenants/<uuid:tenant_id>/move", tenants.move, name="tenant-move"),
    path("tenants/<uuid:tenant_id>/delete", tenants.delete, name="tenant-delete"),
    path("tenants/<uuid:tenant_id>/enable", tenants.switch, {"active": True}, name="tenant-enable"),
    path("tenants/<uuid:tenant_id>/disable", tenants.switch, {"active": False}, name="tenant-disable"),
    path("users", users.index, name="users"),
    path("users/<uuid:user_id>/enable", users.change, {"verb": "enable"}, name="user-enable"),
    path("users/<uuid:user_id>/disable", users.change, {"verb": "disable"}, name="user-disable"),
    path("users/<uuid:user_id>/password", users.change, {"verb": "password"}, name="user-password"),
    path("decisions", records.decisions, name="decisions"),
    path("decisions/<uuid:decision_id>", records.decision, name="decision"),
    path("books", books.books, name="books"),
    path("usage", usage.usage, name="usage"),
    path("usage/lines.csv", usage.lines, name="usage-lines"),
    path("prices", prices.index, name="prices"),
    path("prices/<uuid:price_id>/end", prices.end, name="price-end"),
    path("audit", records.audit, name="audit"),
]

# The raw records keep Django's own namespace "admin", which its templates name; so they stand beside the pages.
urlpatterns = [
    path("admin/", site.urls),
    path("", include((pages, "console"))),
]
