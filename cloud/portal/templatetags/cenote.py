"""Tags and filters of the design system: icons, meters, states, times. The console's templates load them as well."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

# Paths of 24 x 24 outline icons, drawn for Cenote.
_ICONS = {
    "home": '<path d="M4 11l8-7 8 7v8a1 1 0 0 1-1 1h-5v-6h-4v6H5a1 1 0 0 1-1-1z"/>',
    "server": (
        '<rect x="4" y="4" width="16" height="7" rx="1.5"/>'
        '<rect x="4" y="13" width="16" height="7" rx="1.5"/>'
        '<path d="M8 7.5h.01M8 16.5h.01M12 7.5h4M12 16.5h4"/>'
    ),
    "vm": '<rect x="3" y="4" width="18" height="12" rx="1.5"/><path d="M9 20h6M12 16v4"/>',
    "container": '<path d="M12 3l8 4.5v9L12 21l-8-4.5v-9z"/><path d="M4 7.5l8 4.5 8-4.5M12 12v9"/>',
    "activity": '<path d="M3 12h4l3-8 4 16 3-8h4"/>',
    "key": '<circle cx="8" cy="15" r="4"/><path d="M11 12l9-9M16 7l3 3"/>',
    "token": '<rect x="3" y="6" width="18" height="12" rx="2"/><path d="M7 12h.01M11 12h6"/>',
    "people": (
        '<circle cx="9" cy="8" r="3.5"/>'
        '<path d="M2.5 20c.5-4 3-6 6.5-6s6 2 6.5 6M16 4.8a3.5 3.5 0 0 1 0 6.400M18 14.5c2 .8 3.200 2.7 3.5 5.5"/>'
    ),
    "user": '<circle cx="12" cy="8" r="4"/><path d="M4 21c.7-4.7 3.5-7 8-7s7.3 2.3 8 7"/>',
    "pool": (
        '<ellipse cx="12" cy="6" rx="8" ry="3"/>'
        '<path d="M4 6v12c0 1.7 3.6 3 8 3s8-1.3 8-3V6M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3"/>'
    ),
    "tenant": (
        '<path d="M4 21V6l8-3 8 3v15M9 21v-5h6v5M8 9h.01M12 9h.01M16 9h.01M8 12.5h.01M12 12.5h.01M16 12.5h.01"/>'
    ),
    "why": ('<circle cx="12" cy="12" r="9"/><path d="M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.4-1 .9-1 1.7M12 17h.01"/>'),
    "chart": '<path d="M4 20V4M4 20h16M8.5 16v-5M13 16V7M17.5 16v-3"/>',
    "gauge": '<path d="M4.5 18a9 9 0 1 1 15 0M12 14l4-5M12 14h.01"/>',
    "price": '<path d="M12.5 3H20v7.5L11 19.5a1.500 1.500 0 0 1-2.100 0L3.5 14.1a1.500 1.500 0 0 1 0-2.100zM15.5 7.5h.01"/>',
    "ledger": '<path d="M6 3h12v18l-3-2-3 2-3-2-3 2zM9 8h6M9 12h6"/>',
    "audit": '<path d="M5 4h14v16H5zM9 9h6M9 13h6M9 17h3"/>',
    "database": '<ellipse cx="12" cy="6" rx="7" ry="3"/><path d="M5 6v12c0 1.7 3 3 7 3s7-1.3 7-3V6"/>',
    "play": '<path d="M7 4.5v15l12-7.5z"/>',
    "stop": '<rect x="6" y="6" width="12" height="12" rx="1.5"/>',
    "reboot": '<path d="M20 12a8 8 0 1 1-2.5-5.8M20 3v4.5h-4.5"/>',
    "trash": '<path d="M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5"/>',
    "plus": '<path d="M12 5v14M5 12h14"/>',
    "search": '<circle cx="11" cy="11" r="6.5"/><path d="M20 20l-4.3-4.3"/>',
    "copy": (
        '<rect x="8" y="8" width="12" height="12" rx="2"/>'
        '<path d="M16 8V5a1 1 0 0 0-1-1H5a1 1 0 0 0-1 1v10a1 1 0 0 0 1 1h3"/>'
    ),
    "chevron": '<path d="M7 10l5 5 5-5"/>',
    "theme": ('<circle cx="12" cy="12" r="8.5"/><path d="M12 3.5v17a8.5 8.5 0 0 0 0-17z" fill="currentColor"/>'),
    "check": '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
    "alert": '<path d="M12 4L2.8 20h18.400zM12 10v4M12 17h.01"/>',
    "info": '<circle cx="12" cy="12" r="9"/><path d="M12 11v5M12 8h.01"/>',
    "out": '<path d="M14 4H6v16h8M10 12h11M17.5 8.5L21 12l-3.5 3.5"/>',
    "console": '<rect x="3" y="4" width="18" height="16" rx="2"/><path d="M7 9l3 3-3 3M12.5 15H17"/>',
    "refresh": '<path d="M4 11a8 8 0 0 1 14-4.5L20 9M20 4v5h-5M20 13a8 8 0 0 1-14 4.5L4 15M4 20v-5h5"/>',
}

# State word -> look. Words of instances, operations, hosts, tenants and users share one table, so they look the same.
_LOOKS = {
    "ok": "running active succeeded up enabled placed ok done proved finished completed",
    "busy": "building starting stopping rebooting resizing migrating deleting pending unwinding enrolling cleaning "
    "draining waiting taken asked claimed preparing moving",
    "bad": "error failed down fenced stuck crashed refused blocked",
    "warn": "unknown suspect paused suspended disabled cancelled",
    "off": "stopped drained removed deleted aborted proposed expired skipped",
}
_LOOK = {word: look for look, words in _LOOKS.items() for word in words.split()}


@register.simple_tag
def icon(name: str) -> SafeString:
    """An inline icon; words beside it carry the meaning, so it is hidden from screen readers."""
    return mark_safe(f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{_ICONS[name]}</svg>')  # noqa: S308 constants only


@register.filter
def status_look(word: str) -> str:
    return _LOOK.get(word, "off")


@register.simple_tag
def status(word: str, label: str = "", *, operation: bool = False) -> SafeString:
    """A state as a mark and a word. What is at work as `running` is busy, and `stopped` before its end; an instance is at rest."""
    at_work = {"running": "busy", "stopped": "warn"}
    look = (at_work.get(word) if operation else None) or _LOOK.get(word, "off")
    return format_html('<span class="status {}">{}</span>', look, label or word.replace("_", " "))


@register.filter
def words(code: str) -> str:
    """`instance_create` -> `instance create`."""
    return str(code).replace("_", " ")


@register.filter
def doing(kind: str) -> str:
    """An operation's kind as a person says it."""
    noun, _, verb = kind.partition("_")
    return f"{verb.replace('_', ' ').capitalize()} {noun}" if verb else noun.capitalize()


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """A relative time; the exact one (UTC) on hover and for programs."""
    if moment is None:
        return "—"
    seconds = (timezone.now() - moment).total_seconds()
    ahead, seconds = seconds < 0, abs(seconds)
    # Steps of ten below a minute: a list that refreshes itself should not flicker every second.
    if seconds < 10:
        text = "just now" if not ahead else "in a moment"
    else:
        for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (10, "")):
            if seconds >= size:
                count = int(seconds // size)
                text = f"{count} {name}" if name else f"{count * 10} s"
                break
        text = f"in {text}" if ahead else f"{text} ago"
    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html('<time datetime="{}" title="{}" class="nowrap">{}</time>', moment.isoformat(), exact, text)


@register.filter
def exact(moment: datetime | str | None) -> str:
    """A time to the second, in UTC; text from a JSON column is read as RFC 3339."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "—"


@register.simple_tag
def took(start: datetime | str | None, end: datetime | str | None) -> str:
    """The time between two moments, "" where one is missing."""
    begin, finish = (datetime.fromisoformat(item) if isinstance(item, str) else item for item in (start, end))
    if begin is None or finish is None:
        return ""
    return seconds(max(0.0, (finish - begin).total_seconds()))


@register.filter
def seconds(seconds: float) -> str:
    """A length of time: 0.4 ms, 12 ms, 3.4 s, 5 min 6 s."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


_BINARY = ("MiB", "GiB", "TiB", "PiB")


@register.filter
def gib(mebibytes: int) -> str:
    """MiB as people read it: 512 MiB, 2 GiB, 7.5 GiB; 10,240 GiB and more as TiB and PiB."""
    if mebibytes < 1024:
        return f"{mebibytes} MiB"
    number, unit = mebibytes / 1024, 1
    while number >= 10_240 and unit + 1 < len(_BINARY):
        number, unit = number / 1024, unit + 1
    return f"{number:,.1f}".removesuffix(".0") + f" {_BINARY[unit]}"


@register.filter
def amount_of(amount: int, resource: str) -> str:
    """An amount of a resource, with its unit where it has one."""
    if resource == "memory_mib":
        return gib(amount)
    return gib(amount * 1024) if resource == "disk_gib" and amount else f"{amount:,}"


@register.filter
def change_of(amount: float, resource: str) -> str:
    """A change of a resource, with its sign."""
    size = amount_of(round(abs(amount)), resource)
    return f"+{size}" if amount > 0 else f"−{size}" if amount < 0 else size


@register.filter
def percent(share: float) -> str:
    """A share of 1 as a percentage: 0.425 -> 42.5 %."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


@register.inclusion_tag("cenote/meter.html")
def meter(label: str, used: int, limit: int | None, *, unit: str = "", left: int | None = None) -> dict[str, Any]:
    """Used of limit as a bar, with the figures in words. `left`: what can still be had, where it is not limit - used."""
    amount = gib if unit == "MiB" else (lambda number: f"{number} {unit}".strip())
    share = 0 if not limit else min(100, 100 * used // limit)
    rest = left if left is not None else (max(0, limit - used) if limit is not None else None)
    full = limit is not None and used >= limit
    return {
        "label": label,
        "used": amount(used),
        "limit": None if limit is None else amount(limit),
        "left": None if rest is None else amount(rest),
        "over": amount(used - limit) if limit is not None and used > limit else "",
        "share": 100 if full and used else share,
        "tone": "full" if full and used else "high" if share >= 80 else "",
    }


_RESOURCES = {
    "instances": ("Instances", ""),
    "vcpus": ("vCPU", ""),
    "memory_mib": ("Memory", "MiB"),
    "disk_gib": ("Disk", "GiB"),
    "keypairs": ("SSH keys", ""),
    "members": ("Members", ""),
    "tokens": ("API tokens", ""),
    "tenants": ("Tenants below", ""),
}


_PRICED = {"instance": "Instance", "vcpu": "vCPU", "memory_gib": "GiB of memory", "disk_gib": "GiB of disk"}


@register.filter
def priced_label(resource: str) -> str:
    return _PRICED.get(resource, resource)


@register.filter
def resource_label(resource: str) -> str:
    return _RESOURCES.get(resource, (resource, ""))[0]


_GOES_WITH_TENANT = {
    "instances": "Instances, with their disks",
    "addresses": "Addresses",
    "groups": "Groups",
    "grants": "Grants",
    "tenants": "Tenants, with this one",
}


@register.filter
def goes_with_tenant(thing: str) -> str:
    """What is deleted with a tenant, as its plan counts it."""
    return _GOES_WITH_TENANT.get(thing) or resource_label(thing)


@register.filter
def resource_unit(resource: str) -> str:
    return _RESOURCES.get(resource, ("", ""))[1]


@register.filter
def as_json(value: Any) -> str:
    return json.dumps(value)


@register.filter
def split(text: str) -> list[str]:
    """The words of a text, to loop over names that stand in a template."""
    return text.split()


@register.filter
def get_item(mapping: dict[str, Any], key: str) -> Any:
    return mapping.get(key) if mapping else None


@register.filter
def step_mark(state: str) -> str:
    return {"done": "✓", "failed": "✕", "undone": "↩", "running": "●"}.get(state, "○")
