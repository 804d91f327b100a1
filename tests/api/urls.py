"""The API alone: its tests need no other door."""

from django.urls import include, path

urlpatterns = [path("api/v1/", include("cloud.api.urls"))]
