"""Routes of the operators' console."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
