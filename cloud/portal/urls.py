"""Routes of the tenants' portal."""

from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from cloud.portal.views import (
    account,
    create,
    dashboard,
    instances,
    keys,
    lease,
    members,
    operations,
    resize,
    session,
    tenants,
    tokens,
    usage,
)

urlpatterns = [
    path("", dashboard.home, name="home"),
    # Pages that are not ours (API documentation, raw records) make browsers ask for it here.
    path("favicon.ico", RedirectView.as_view(url=static("cenote/logo.svg"))),
    path("login", session.LoginView.as_view(), name="login"),
    path("logout", session.LogoutView.as_view(), name="logout"),
    path("account", account.account, name="account"),
    path("tenants", tenants.index, name="tenants"),
    path("tenants/switch", tenants.switch, name="tenant-switch"),
    path("tenants/<uuid:tenant_id>/delete", tenants.delete, name="tenant-delete"),
    path("instances", instances.index, name="instances"),
    path("instances/new", create.new, name="instance-new"),
    path("instances/new/forecast", create.forecast, name="instance-forecast"),
    path("instances/<uuid:instance_id>", instances.detail, name="instance"),
    path("instances/<uuid:instance_id>/console", instances.detail, {"tab": "console"}, name="instance-console"),
    path("instances/<uuid:instance_id>/activity", instances.detail, {"tab": "activity"}, name="instance-activity"),
    path("instances/<uuid:instance_id>/placement", instances.detail, {"tab": "placement"}, name="instance-placement"),
    path("instances/<uuid:instance_id>/start", instances.power, {"verb": "start"}, name="instance-start"),
    path("instances/<uuid:instance_id>/stop", instances.power, {"verb": "stop"}, name="instance-stop"),
    path("instances/<uuid:instance_id>/reboot", instances.power, {"verb": "reboot"}, name="instance-reboot"),
    path("instances/<uuid:instance_id>/lease", lease.lease, name="instance-lease"),
    path("instances/<uuid:instance_id>/resize", resize.resize, name="instance-resize"),
    path("instances/<uuid:instance_id>/resize/plan", resize.plan, name="instance-resize-plan"),
    path("instances/<uuid:instance_id>/delete", instances.delete, name="instance-delete"),
    path("operations", operations.index, name="operations"),
    path("operations/<uuid:operation_id>", operations.detail, name="operation"),
    path("operations/<uuid:operation_id>/cancel", operations.act, {"verb": "cancel"}, name="operation-cancel"),
    path("operations/<uuid:operation_id>/retry", operations.act, {"verb": "retry"}, name="operation-retry"),
    path("usage", usage.usage, name="usage"),
    path("usage/lines.csv", usage.lines, name="usage-lines"),
    path("keys", keys.index, name="keys"),
    path("keys/<uuid:keypair_id>/delete", keys.delete, name="key-delete"),
    path("tokens", tokens.index, name="tokens"),
    path("tokens/<uuid:token_id>/revoke", tokens.revoke, name="token-revoke"),
    path("members", members.index, name="members"),
    path("members/<uuid:user_id>/role", members.change, name="member-role"),
    path("members/<uuid:user_id>/remove", members.remove, name="member-remove"),
]
