"""Raw records for operators, read only: what the pages do not show. Secrets are left out by name and by type."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

_APPS = ("tenants", "compute")
# Hashes and digests do not open anything, and still are nobody's business; user data may hold passwords, as may the
# arguments and answers of host calls, which carry it.
_HIDDEN = frozenset(
    {"password", "digest", "token_hash", "node_token_hash", "user_data", "arguments", "answer", "scratch", "text"}
)


class ConsoleAdminSite(admin.AdminSite):
    site_header = "Cenote: raw records"
    site_title = "Cenote"
    index_title = "Everything the cloud has written down, read only"
    site_url = "/console/"

    def has_permission(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return bool(user.is_active and getattr(user, "is_operator", False))

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Send a visitor to the cloud's own log-in, and tell everybody who is no operator that there is nothing here."""
        if self.has_permission(request):
            return redirect("admin:index")
        if request.user.is_authenticated:
            raise Http404
        return redirect_to_login(reverse("admin:index"))

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Django's own form would bypass the service, and with it the audit trail."""
        return redirect("account")


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Looking only: changes go through services, which check, charge and write the audit trail."""

    list_per_page = 100
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def get_queryset(self, request: HttpRequest) -> Any:
        # Tenant-owned models refuse their scoped manager here: an operator sees all tenants.
        manager = getattr(self.model, "unscoped", self.model._default_manager)
        hidden = [field.name for field in self.model._meta.concrete_fields if field.name in _HIDDEN]
        ordering = self.get_ordering(request) or self.model._meta.ordering or ["pk"]
        return manager.get_queryset().defer(*hidden).order_by(*ordering)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [field.name for field in self.model._meta.concrete_fields if field.name not in _HIDDEN]


site = ConsoleAdminSite(name="console-admin")


def _columns(model: type[models.Model]) -> list[str]:
    wide = (models.JSONField, models.TextField, models.BinaryField)
    fields = [field for field in model._meta.concrete_fields if field.name not in _HIDDEN]
    return [field.name for field in fields if not isinstance(field, wide)][:8]


def _register() -> None:
    for label in _APPS:
        for model in apps.get_app_config(label).get_models():
            joined = [field.name for field in model._meta.concrete_fields if field.is_relation]
            columns = _columns(model)
            options = {
                "list_display": columns,
                "list_select_related": [name for name in joined if name in columns] or False,
            }
            site.register(model, type(f"{model.__name__}Admin", (ReadOnlyAdmin,), options))


_register()
