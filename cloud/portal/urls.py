"""Routes of the tenants' portal."""

from django.urls import path
from django.views.generic import RedirectView

from cloud.portal.views import session

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="login"), name="home"),
    path("login", session.LoginView.as_view(), name="login"),
    path("logout", session.LogoutView.as_view(), name="logout"),
]
