"""What can be asked for: flavors and images."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, Choice, Flag, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from compute.selectors.catalog import list_flavors, list_images
from compute.selectors.lookup import find_flavor, find_image
from compute.services.catalog import create_flavor
from tenants.services.access import authorize


class FlavorAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()
    kind = serializers.ChoiceField(["", "vm", "container"], help_text="empty: for both")
    cpu_model = serializers.CharField(help_text="that its VMs get; empty: the pool's")
    cpu_flags = serializers.ListField(child=serializers.CharField(), help_text="that its VMs get beyond their model")
    numa_nodes = serializers.IntegerField(help_text="NUMA cells that it is spread over; 0: wherever the host likes")
    hugepages_kib = serializers.IntegerField(help_text="size of its memory's pages; 0: ordinary ones")
    pinned = serializers.BooleanField(help_text="whether each of its vCPU has a CPU to itself")
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class FlavorCreateInput(StrictSerializer):
    name = Text(max_length=63)
    vcpus = Whole(min_value=1)
    memory_mib = Whole(min_value=16)
    disk_gib = Whole(min_value=1)
    kind = Choice(["vm", "container"], required=False, help_text="left out: for both")
    cpu_model = Text(max_length=63, required=False, help_text="in libvirt's names; for the kind vm")
    cpu_flags = serializers.ListField(
        child=Text(max_length=63), max_length=32, required=False, help_text="in libvirt's names; for the kind vm"
    )
    numa_nodes = Whole(max_value=8, required=False, help_text="evenly; more than 1 for the kind vm")
    hugepages_kib = Whole(max_value=1_048_576, required=False, help_text="2048 or 1048576; for the kind vm")
    pinned = Flag(required=False)


class ImageAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    kind = serializers.ChoiceField(["vm", "container"])
    format = serializers.ChoiceField(["qcow2", "raw", "rootfs-tar"])
    default_user = serializers.CharField(help_text="who to log in as")
    sha256 = serializers.CharField()
    size_bytes = serializers.IntegerField()
    virtual_size_gib = serializers.IntegerField(help_text="the least disk_gib of a flavor for it")
    description = serializers.CharField()
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class Flavors(Door):
    @route("flavor_list", permission="flavor.read", page_of=FlavorAnswer)
    def list(self, call: Call) -> Response:
        """Oldest first."""
        rows = list_flavors(actor=call.actor)
        return page(call.request, rows, lambda row: call.render(FlavorAnswer, row), newest_first=False)

    @route("flavor_create", permission="flavor.create", body=FlavorCreateInput, answer=FlavorAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Offer a size; for operators."""
        flavor = create_flavor(actor=call.actor, **call.body)
        return Response(
            call.render(FlavorAnswer, flavor),
            status=201,
            headers={"Location": f"/api/v1/flavors/{flavor.id}", "ETag": f'"{flavor.version}"'},
        )

    @route("flavor_show", permission="flavor.read", answer=FlavorAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        authorize(call.actor, "flavor.read", None)
        flavor = find_flavor(as_reference(reference))
        return tagged(call.request, call.render(FlavorAnswer, flavor), version=flavor.version)


class Images(Door):
    @route("image_list", permission="image.read", page_of=ImageAnswer)
    def list(self, call: Call) -> Response:
        """Oldest first."""
        rows = list_images(actor=call.actor)
        return page(call.request, rows, lambda row: call.render(ImageAnswer, row), newest_first=False)

    @route("image_show", permission="image.read", answer=ImageAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        authorize(call.actor, "image.read", None)
        image = find_image(as_reference(reference))
        return tagged(call.request, call.render(ImageAnswer, image), version=image.version)
