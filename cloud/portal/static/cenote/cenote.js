"use strict";
// Small helpers. Every page works without them: they add live updates, copying, and sums while one types.

(() => {
  const TICK_MS = 1500;

  // Live parts: one clock for the page, silent while nobody looks.
  const tick = () => { if (!document.hidden) document.body.dispatchEvent(new Event("cenote-tick")); };
  setInterval(tick, TICK_MS);
  document.addEventListener("visibilitychange", tick);

  // Each live part remembers the digest of what it shows; the server answers 204 when that is still true.
  document.addEventListener("htmx:configRequest", (event) => {
    const part = event.target.closest("[data-live]");
    if (!part || event.detail.elt !== part) return;
    if (part.dataset.have) event.detail.headers["Cenote-Have"] = part.dataset.have;
    event.detail.headers["Cenote-Live"] = part.dataset.live;
  });
  // Read before the swap, so that the refreshed part keeps its place.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.elt;
    const terminal = part.querySelector && part.querySelector(".terminal");
    if (terminal) {
      const atEnd = terminal.scrollHeight - terminal.scrollTop - terminal.clientHeight < 24;
      part.dataset.scroll = atEnd ? "end" : String(terminal.scrollTop);
    }
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    const terminal = event.target.querySelector && event.target.querySelector(".terminal");
    if (terminal && event.target.dataset.scroll) {
      terminal.scrollTop = event.target.dataset.scroll === "end" ? terminal.scrollHeight : Number(event.target.dataset.scroll);
    }
  });

  // An outage is said, not hidden; the clock above goes on trying.
  const away = (isAway) => { const note = document.getElementById("away"); if (note) note.hidden = !isAway; };
  document.addEventListener("htmx:sendError", () => away(true));
  document.addEventListener("htmx:timeout", () => away(true));
  document.addEventListener("htmx:afterRequest", (event) => {
    const xhr = event.detail.xhr;
    if (!xhr || !xhr.status) return;
    away(xhr.status >= 500);
    const have = xhr.getResponseHeader("Cenote-Have");
    if (have && event.detail.elt.dataset) event.detail.elt.dataset.have = have;
  });

  // Theme: system, light, dark. Copy buttons. A menu closes when one clicks elsewhere.
  document.addEventListener("click", async (event) => {
    const theme = event.target.closest("[data-theme-toggle]");
    if (theme) {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("cenote-theme", root.dataset.theme); } catch { /* only this page then */ }
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const text = copy.dataset.copy || copy.parentElement.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        const label = copy.querySelector("span") || copy;
        const before = label.textContent;
        label.textContent = "Copied";
        setTimeout(() => { label.textContent = before; }, 1200);
      } catch { /* without permission the text can still be selected by hand */ }
    }
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      const search = document.querySelector('input[type="search"]');
      if (search) { event.preventDefault(); search.focus(); }
    }
  });

  // What a create would leave of the quota, while the choice is still open.
  const sums = () => {
    const form = document.querySelector("form[data-sums]");
    if (!form) return;
    const flavor = form.querySelector('input[name="flavor"]:checked');
    const image = form.querySelector('input[name="image"]:checked');
    const count = Number(form.querySelector('input[name="count"]').value) || 1;
    for (const row of form.querySelectorAll("[data-resource]")) {
      const resource = row.dataset.resource;
      const each = resource === "instances" ? 1 : flavor ? Number(flavor.dataset[resource]) : 0;
      const asked = each * count;
      const left = row.dataset.left === "" ? null : Number(row.dataset.left);
      row.querySelector("[data-asked]").textContent = asked ? "+" + asked : "0";
      const after = row.querySelector("[data-after]");
      after.textContent = left === null ? "no limit" : left - asked < 0 ? "−" + (asked - left) : String(left - asked);
      row.dataset.over = left !== null && left - asked < 0 ? "yes" : "no";
    }
    const size = form.querySelector("[data-size]");
    if (size) size.textContent = image && flavor ? image.dataset.name + " on " + flavor.dataset.name : "";
  };
  document.addEventListener("input", sums);
  document.addEventListener("DOMContentLoaded", () => {
    sums();
    const terminal = document.querySelector(".terminal");
    if (terminal) terminal.scrollTop = terminal.scrollHeight;
    // On narrow screens the navigation scrolls sideways: show where one is.
    const here = document.querySelector('.side [aria-current="page"]');
    if (here) here.scrollIntoView({ block: "nearest", inline: "center" });
  });

  // A second click on the way must not order the same thing twice. After the event, so that the button's value is sent.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    setTimeout(() => { for (const button of event.target.querySelectorAll("button")) button.disabled = true; }, 0);
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  // The button that deletes wakes up when the name is typed; the server checks it again.
  document.addEventListener("input", (event) => {
    const expected = event.target.dataset && event.target.dataset.expect;
    if (expected === undefined) return;
    const button = event.target.form.querySelector("button[type=submit]");
    if (button) button.disabled = event.target.value !== expected;
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const field of document.querySelectorAll("[data-expect]")) {
      field.form.querySelector("button[type=submit]").disabled = field.value !== field.dataset.expect;
    }
  });
})();
