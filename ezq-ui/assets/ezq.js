// What a page does beside its refresh, which htmx does by attributes. Every page works without it.
"use strict";

const live = () => document.getElementById("live");
let isPaused = false;

// Nobody looks at a hidden page, and a paused one is to stay as it is.
document.addEventListener("htmx:before:request", (event) => {
  const isRefresh = event.target.id === "poll" || event.target.id === "runs";
  if (isRefresh && (isPaused || document.hidden)) event.preventDefault();
});

document.addEventListener("visibilitychange", () => {
  const poll = document.getElementById("poll");
  if (poll && !document.hidden) poll.dispatchEvent(new Event("ezq:refresh"));
});

// The server itself is away: the content stays, and says that it is old.
const setAway = (isAway) => {
  const banner = document.getElementById("away");
  if (banner) banner.hidden = !isAway;
};
document.addEventListener("htmx:error", () => setAway(true));
document.addEventListener("htmx:response:error", (event) => {
  // The session has ended: the page itself asks to sign in.
  if (event.detail?.ctx?.response?.status === 401) window.location.reload();
  else setAway(true);
});

const pause = document.getElementById("pause");
if (pause) {
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    document.body.classList.toggle("is-paused", isPaused);
  });
}

// The other theme than the one that is shown, kept in a cookie so that the next page comes with it.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark;
  root.dataset.theme = isDark ? "light" : "dark";
  const path = document.body.dataset.prefix || "/";
  document.cookie = `ezq_theme=${root.dataset.theme}; path=${path}; max-age=31536000; samesite=lax`;
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-confirm]");
  if (!button) return;
  if (button.dataset.confirm && !window.confirm(button.dataset.confirm)) event.preventDefault();
  if (!button.dataset.copy) return;

  const before = button.textContent;
  try {
    const answer = await fetch(button.dataset.copy);
    if (!answer.ok) throw new Error(answer.statusText);
    await navigator.clipboard.writeText(await answer.text());
    button.textContent = "Copied";
  } catch {
    // No answer; or the clipboard, which browsers allow to pages of this machine or with TLS only.
    button.textContent = "Not copied: use “Show as JSON”";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
});

document.addEventListener("change", (event) => {
  const name = event.target.dataset.all;
  if (!name) return;
  for (const box of live().querySelectorAll(`input[name="${name}"]`)) box.checked = event.target.checked;
});
