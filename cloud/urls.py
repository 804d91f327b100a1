"""The one URL table: each door's own routes hang below."""

from django.urls import include, path

from cloud import health

urlpatterns = [
    path("health/live", health.live),
    path("health/ready", health.ready),
    path("api/v1/", include("cloud.api.urls")),
    path("nodeapi/v1/", include("cloud.nodeapi.urls")),
    path("console/", include("cloud.console.urls")),
    path("", include("cloud.portal.urls")),
]
