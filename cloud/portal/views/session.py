"""Logging in and out."""

from __future__ import annotations

from django.contrib.auth import views as auth_views


class LoginView(auth_views.LoginView):
    """The password form. Django's own view does CSRF, safe `next` targets and the session's new key; axes counts failures."""

    template_name = "portal/login.html"
    redirect_authenticated_user = True


class LogoutView(auth_views.LogoutView):
    """POST only: a link or an image on another site logs nobody out."""
