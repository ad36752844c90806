// The pages work without this script. It adds local times, keys, copying, live messages and the progress of a check.
"use strict";

const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* a private window keeps nothing */ } },
};
const say = (text) => { document.getElementById("announce").textContent = text; };

// Times: UTC as the server wrote them, or the zone of this computer. One switch for all pages.
function writeTimes(root) {
  const isLocal = store.get("convokit-zone") === "local";
  for (const element of root.querySelectorAll("time")) {
    element.dataset.utc ??= element.textContent;
    if (!isLocal) { element.textContent = element.dataset.utc; continue; }
    const moment = new Date(element.dateTime);
    const two = (number) => String(number).padStart(2, "0");
    const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
    const clock = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
    const offset = -moment.getTimezoneOffset();
    const zone = `${offset < 0 ? "-" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
    element.textContent = `${day} ${clock} ${zone}`;
  }
}

function addZoneSwitch() {
  const button = document.getElementById("zone");
  const show = () => { button.textContent = store.get("convokit-zone") === "local" ? button.dataset.local : button.dataset.utc; };
  button.addEventListener("click", () => {
    store.set("convokit-zone", store.get("convokit-zone") === "local" ? "utc" : "local");
    show();
    writeTimes(document);
  });
  show();
  button.hidden = false;
}

// Keys. Nothing happens in a field, while an input method composes, or with the keys switched off.
const messages = () => [...document.querySelectorAll(".message[data-seq]")];

function findCurrent() {
  const focused = document.activeElement?.closest(".message[data-seq]");
  if (focused) return focused;
  const target = document.querySelector(".message[aria-current]");
  return target ?? messages().find((each) => each.getBoundingClientRect().bottom > 60);
}

function moveTo(step) {
  const all = messages();
  if (!all.length) return;
  const focused = document.activeElement?.closest(".message[data-seq]") ?? document.querySelector(".message[aria-current]");
  const index = focused ? all.indexOf(focused) + step : step > 0 ? 0 : all.length - 1;
  const next = all[Math.min(Math.max(index, 0), all.length - 1)];
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function follow(selector, root = document) {
  const link = root?.querySelector(selector);
  if (link) link.click();
  return Boolean(link);
}

async function copyPermalink() {
  const link = findCurrent()?.querySelector("a.seq");
  const url = link ? link.href : location.href;
  try { await navigator.clipboard.writeText(url); say(url); } catch { location.hash = new URL(url).hash; }
}

// The text of a message, as it is stored.
async function copyText(button) {
  const response = await fetch(button.closest(".message").querySelector("a.raw").href);
  if (!response.ok) { location.reload(); return; }
  await navigator.clipboard.writeText(await response.text());
  say(button.dataset.done);
}

function addCopying() {
  if (!navigator.clipboard) return;  // browsers have none for a page without TLS from another computer
  document.body.classList.add("copies");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copyText(button).catch(() => undefined);
  });
}

let firstKey = "";

function handleKey(event) {
  if (event.isComposing || event.keyCode === 229 || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, textarea, select, [contenteditable], dialog");
  if (event.key === "Escape" && field && !field.closest("dialog")) { event.target.blur(); return; }
  if (field || store.get("convokit-keys") === "off") return;
  const sequence = `${firstKey}${event.key}`;
  firstKey = "";
  const actions = {
    "/": () => document.getElementById("q")?.focus(),
    "j": () => moveTo(1),
    "k": () => moveTo(-1),
    "o": () => follow("[data-message-key=o]", findCurrent()),
    "v": () => follow("[data-message-key=v]", findCurrent()),
    "w": () => follow("[data-message-key=w]", findCurrent()) || follow("[data-key=w]"),
    "[": () => follow("[data-key='[']"),
    "]": () => follow("[data-key=']']"),
    "b": () => follow("[data-key=b]"),
    "y": copyPermalink,
    "g": () => { firstKey = "g "; },
    "g l": () => follow("[data-key='g l']"),
    "g u": () => follow("[data-key='g u']"),
    "?": () => document.getElementById("keys-help").showModal(),
    "Escape": () => document.getElementById("main").focus(),
  };
  const key = event.key === "Enter" && event.target.matches(".message") ? "o" : sequence;
  if (actions[key]) { event.preventDefault(); actions[key](); }
}

function addKeys() {
  const dialog = document.getElementById("keys-help"), isOn = document.getElementById("keys-on"), open = document.getElementById("keys");
  isOn.checked = store.get("convokit-keys") !== "off";
  isOn.addEventListener("change", () => store.set("convokit-keys", isOn.checked ? "on" : "off"));
  open.addEventListener("click", () => dialog.showModal());
  open.hidden = false;
  document.addEventListener("keydown", handleKey);
}

// Live messages. They are added at the end; the page moves only for a reader who is at the end.
function isAtEnd() { return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 60; }

function followConversation(list) {
  const typing = document.getElementById("typing"), text = typing.querySelector(".plain");
  let source = null, waiting = 0, loading = Promise.resolve();
  const more = document.createElement("button");
  more.id = "more";
  more.hidden = true;
  more.addEventListener("click", () => { waiting = 0; more.hidden = true; window.scrollTo(0, document.documentElement.scrollHeight); });
  list.after(more);
  const toEnd = (wasAtEnd, count) => {
    if (wasAtEnd) { window.scrollTo(0, document.documentElement.scrollHeight); return; }
    waiting += count;
    if (waiting) { more.textContent = list.dataset.new.replace("{n}", waiting); more.hidden = false; }
  };
  async function load() {
    const last = messages().at(-1);
    const response = await fetch(list.dataset.page + (last ? `?after=${last.dataset.seq}` : ""));
    if (!response.ok) { location.reload(); return; }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const found = [...page.querySelectorAll(".message[data-seq]")].filter((each) => !document.getElementById(each.id));
    const wasAtEnd = isAtEnd();
    for (const each of found) list.append(document.adoptNode(each));
    if (found.length) {
      list.querySelector(":scope > p")?.remove();
      writeTimes(list);
      typing.hidden = true;
      text.textContent = "";
      say(list.dataset.new.replace("{n}", found.length));
      toEnd(wasAtEnd, found.length);
    }
  }
  let turn = null;
  source = new EventSource(list.dataset.live);
  source.addEventListener("changed", (event) => {
    if (!JSON.parse(event.data).open) { typing.hidden = true; text.textContent = ""; turn = null; }
    loading = loading.then(load).catch(() => undefined);
  });
  source.addEventListener("text", (event) => {
    const data = JSON.parse(event.data), wasAtEnd = isAtEnd();
    if (turn !== data.turn) { turn = data.turn; text.textContent = ""; }
    text.textContent += data.text;
    typing.hidden = false;
    if (wasAtEnd) window.scrollTo(0, document.documentElement.scrollHeight);
  });
  source.addEventListener("end", () => source.close());
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

// Verification, with its progress.
function addCheck(link) {
  const bar = document.getElementById("verify-progress");
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (!bar.hidden) return;
    bar.hidden = false;
    const source = new EventSource(link.dataset.events);
    source.addEventListener("progress", (event) => { const data = JSON.parse(event.data); bar.max = data.total; bar.value = data.done; });
    source.addEventListener("done", () => { source.close(); location.assign(link.dataset.done); });
    source.addEventListener("error", () => { source.close(); location.assign(link.href); });
  });
}

addZoneSwitch();
addKeys();
addCopying();
writeTimes(document);
const list = document.querySelector("#messages[data-live]");
if (list) followConversation(list);
const check = document.getElementById("verify");
if (check) addCheck(check);
const target = document.querySelector(".message[aria-current]");
if (target) { target.focus({ preventScroll: true }); if (!location.hash) target.scrollIntoView({ block: "center" }); }
for (const form of document.querySelectorAll("form.filters")) {
  // An address without empty parameters is easier to pass on.
  form.addEventListener("submit", () => { for (const field of form.elements) if (field.name && !field.value) field.disabled = true; });
}
