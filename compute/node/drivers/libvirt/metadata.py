"""Cenote's mark in a domain's metadata: whose instance it is, and the newest fencing token that touched it."""

from __future__ import annotations

from lxml import etree

from compute.node.drivers.libvirt.xml_text import clean
from compute.wire import InstanceSpec

NAMESPACE = "https://cenote.dev/xmlns/instance/1"
METADATA_KEY = "cenote"
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def metadata_element(spec: InstanceSpec, token: int) -> etree._Element:
    """Return the metadata element of a domain."""
    return _fill(etree.Element(etree.QName(NAMESPACE, "instance"), nsmap={METADATA_KEY: NAMESPACE}), spec, token)


def metadata_text(spec: InstanceSpec, token: int) -> str:
    """Return the same for `Hypervisor.set_metadata`: without namespace, since libvirt puts its own declaration in."""
    return str(etree.tostring(_fill(etree.Element("instance"), spec, token), encoding="unicode"))


def _fill(element: etree._Element, spec: InstanceSpec, token: int) -> etree._Element:
    element.set("id", clean(spec.id))
    element.set("tenant", clean(spec.tenant_id))
    element.set("token", str(token))
    return element


def read_metadata(xml: str | None) -> tuple[str | None, int]:
    """Return instance id and token; (None, 0) for what is not ours or cannot be read."""
    if not xml:
        return None, 0
    try:
        element = etree.fromstring(xml.encode(), PARSER)
        return element.get("id") or None, int(element.get("token") or 0)
    except (etree.XMLSyntaxError, ValueError):
        return None, 0
