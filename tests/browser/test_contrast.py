"""WCAG AA, measured on the drawn page: 4.5:1 for text, 3:1 for large text, in light and in dark."""

from __future__ import annotations

import pytest

from compute.services.instances_power import stop_instance
from tests.browser.conftest import Desk

# Every element that holds text of its own, with the colours it is really drawn in. Disabled buttons are exempt (1.4.3).
MEASURE = """() => {
  const parse = (text) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((value, i) => value * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const faults = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({ checkOpacity: true }) || element.closest(":disabled, .visually-hidden, .skip")) continue;
    const style = getComputedStyle(element), under = ground(element);
    const a = light(over(parse(style.color), under)), b = light(under);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faults.push(`${ratio.toFixed(2)} ${element.className} ${element.textContent.trim().slice(0, 40)}`);
  }
  return faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme: str, desk: Desk) -> None:
    desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    instance, _ = desk.make("web"), desk.cloud.create("new")
    stopped = desk.make("old")
    stop_instance(actor=desk.cloud.actor, instance_id=stopped.id)
    desk.work()
    desk.user.is_operator = True
    desk.user.save()
    desk.cloud.create("waiting")
    portal = ["/", "/instances", "/instances/new", f"/instances/{instance.id}", f"/instances/{instance.id}/console"]
    access = ["/operations", "/keys", "/tokens", "/members", "/account", "/absent"]
    console = [
        f"/console/{page}"
        for page in (
            "",
            "hosts",
            "pools",
            "capacity",
            "operations",
            "tenants",
            "users",
            "usage",
            "prices",
            "books",
            "audit",
        )
    ]
    for path in (*portal, *access, *console, f"/console/hosts/{desk.cloud.host.id}"):
        desk.page.goto(path)
        assert desk.page.evaluate(MEASURE) == [], path
