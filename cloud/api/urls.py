"""Everything below /api/v1/."""

from django.urls import include, path, re_path

from cloud.api import pages

urlpatterns = [
    path("", include("cloud.api.v1.urls")),
    path("openapi.json", pages.openapi),
    path("docs", pages.docs),
    re_path(r"^(?P<rest>.*)$", pages.Nowhere.as_view()),
]
