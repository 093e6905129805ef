"use strict";
const about = JSON.parse(document.getElementById("about").textContent);
const rounds = [...document.querySelectorAll(".round")];
const rater = document.getElementById("rater");
const save = document.getElementById("save");
const state = document.getElementById("state");
const key = "starring-votes " + about.comparison;
// A file opened from disk may be refused a memory; the votes then live as long as the page.
const memory = (() => { try { localStorage.setItem(key + " ?", ""); localStorage.removeItem(key + " ?"); return localStorage; } catch { return null; } })();
let at = 0;

const votes = () => [...document.querySelectorAll("input[type=radio]:checked")].map((input) => ({
  pair: Number(input.closest(".round").dataset.pair), question: input.dataset.question, choice: input.value,
}));
const asked = document.querySelectorAll("fieldset").length;

function remember() {
  const given = votes();
  if (memory) memory.setItem(key, JSON.stringify({ rater: rater.value, votes: given }));
  save.disabled = !given.length || !rater.value.trim();
  state.textContent = given.length + " of " + asked + " answered";
}

function show(number) {
  at = Math.max(0, Math.min(rounds.length - 1, number));
  rounds.forEach((round, i) => {
    round.hidden = i !== at;
    for (const film of round.querySelectorAll("video")) {
      film.pause();
      if (i !== at) continue;
      film.currentTime = 0;
      const started = film.play();
      if (started) started.catch(() => { film.controls = true; });
    }
  });
  document.getElementById("back").disabled = at === 0;
  document.getElementById("next").disabled = at === rounds.length - 1;
  scrollTo(0, 0);
}

function load() {
  let kept = null;
  try { kept = memory && JSON.parse(memory.getItem(key)); } catch { kept = null; }
  if (!kept) return;
  rater.value = kept.rater || "";
  for (const vote of kept.votes || []) {
    const input = document.querySelector(`input[name="${vote.pair}-${vote.question}"][value="${vote.choice}"]`);
    if (input) input.checked = true;
  }
}

save.addEventListener("click", () => {
  const content = { format: about.format, comparison: about.comparison, rater: rater.value.trim(), votes: votes() };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2) + "\n"], { type: "application/json" }));
  link.download = "votes-" + (rater.value.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-") || "nobody") + ".json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
document.addEventListener("change", remember);
rater.addEventListener("input", remember);
document.getElementById("back").addEventListener("click", () => show(at - 1));
document.getElementById("next").addEventListener("click", () => show(at + 1));
document.addEventListener("keydown", (event) => {
  const choice = { 1: 0, 2: 1, 3: 2 }[event.key];
  if (event.target === rater || choice === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  // The first question that is open gets the answer; after the last one the next pair is shown.
  const open = [...rounds[at].querySelectorAll("fieldset")].find((field) => !field.querySelector(":checked"));
  if (open) { open.querySelectorAll("input")[choice].checked = true; remember(); }
  if (!rounds[at].querySelector("fieldset:not(:has(:checked))") && at < rounds.length - 1) show(at + 1);
});
load();
remember();
show(0);
