"use strict";
// In <head>, before anything is drawn: a stored choice must not flash in the other colours.
try {
  const theme = localStorage.getItem("cenote-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* storage may be forbidden; the system's choice holds then */ }
