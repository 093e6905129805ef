"use strict";
const root = document.documentElement;
const toggle = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const shown = () => root.dataset.theme || (dark.matches ? "dark" : "light");
const label = () => { toggle.textContent = shown() === "dark" ? "Light" : "Dark"; };
toggle.hidden = false;
toggle.addEventListener("click", () => { root.dataset.theme = shown() === "dark" ? "light" : "dark"; label(); });
dark.addEventListener("change", label);
label();

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const play = (film) => { const started = film.play(); if (started) started.catch(() => { film.controls = true; }); };
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) play(target); else target.pause();
}, { rootMargin: "120px" });
for (const film of document.querySelectorAll("video")) {
  if (still) film.controls = true; else watcher.observe(film);
  film.addEventListener("click", () => { if (!film.controls) { if (film.paused) play(film); else film.pause(); } });
}

const dialog = document.getElementById("large");
for (const sheet of document.querySelectorAll("img.sheet")) {
  const open = () => { dialog.firstElementChild.src = sheet.src; dialog.firstElementChild.alt = sheet.alt; dialog.showModal(); };
  sheet.addEventListener("click", open);
  sheet.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
}
dialog.addEventListener("click", () => dialog.close());
