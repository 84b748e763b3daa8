// Keeps the list of messages fresh and lets j and k walk through it. Without it the pages work by reloading.
const PERIOD_MS = 1000;

async function refresh() {
  const list = document.getElementById("list");
  const answer = await fetch("/inbox/api/messages");
  if (!answer.ok) return;
  const items = (await answer.json()).items;
  const newest = items.length ? items[0].id : 0;
  if (String(newest) === list.dataset.newest || new URLSearchParams(location.search).has("before")) return;
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  const fresh = page.getElementById("list");
  if (!fresh) return;
  const reading = document.body.classList.contains("reading");
  if (!reading) document.querySelector("article").replaceWith(page.querySelector("article"));
  document.querySelector("header.bar").replaceWith(page.querySelector("header.bar"));
  list.replaceWith(fresh);
}

function walk(step) {
  const links = [...document.querySelectorAll("#list li a")];
  const at = links.findIndex((link) => link.hasAttribute("aria-current"));
  const next = links[at < 0 ? 0 : at + step];
  if (next) next.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea")) return;
  if (event.key === "j") walk(1);
  if (event.key === "k") walk(-1);
});

setInterval(() => {
  if (!document.hidden) refresh().catch(() => undefined);
}, PERIOD_MS);
