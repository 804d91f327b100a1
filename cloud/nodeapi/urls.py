from django.urls import path

from cloud.nodeapi import views

urlpatterns = [
    path("join", views.join),
    path("calls/fetch", views.fetch),
    path("calls/<uuid:call_id>/answer", views.answer),
    path("heartbeat", views.heartbeat),
    path("network", views.network),
]
