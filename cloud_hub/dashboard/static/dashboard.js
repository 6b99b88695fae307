"use strict";
// Keeps a page alive: it is asked for again when the hub says that something has changed, and morphed into place;
// moments are told in local time, drift is plotted.
(() => {
  const connection = document.getElementById("connection");
  const say = (alive) => {
    connection.textContent = alive ? "live" : "the hub does not answer";
    connection.classList.toggle("lost", !alive);
  };
  document.body.addEventListener("htmx:afterRequest", (event) => say(event.detail.successful));
  document.body.addEventListener("htmx:sendError", () => say(false));

  // What a person has typed or opened stays as it is.
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" || ((name === "value" || name === "checked") && /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) && node.type !== "hidden"));
  const typing = () => document.querySelector("#live dialog[open]") !== null;

  // While the hub's stream is heard, the page asks when that says so, and once a minute for what time alone changes.
  // Without it (refused, cut off, no such thing in this browser) it asks every few seconds. A page that nobody sees
  // has none: a browser opens six connections to a hub at most.
  const SILENT = 40_000, SLOW = 60_000, AGAIN = 30_000;
  let source = null, heard = 0, asked = 0, moved = false;
  const now = () => performance.now();
  const streaming = () => source !== null && source.readyState === EventSource.OPEN && now() - heard < SILENT;
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.id !== "live") return;
    if (typing() || document.hidden || (streaming() && !moved && now() - asked < SLOW)) {
      event.preventDefault();
      return;
    }
    moved = false;
    asked = now();
  });
  const stop = () => {
    if (source) source.close();
    source = null;
  };
  const follow = () => {
    if (document.hidden || !window.EventSource || !document.getElementById("live")) return stop();
    if (source && source.readyState === EventSource.OPEN && now() - heard >= SILENT) stop();
    if (source && source.readyState !== EventSource.CLOSED) return;
    source = new EventSource("/live");
    const alive = () => (heard = now());
    source.addEventListener("open", alive);
    source.addEventListener("alive", alive);
    source.addEventListener("moved", () => {
      alive();
      moved = true;
      htmx.trigger("#live", "moved");
    });
  };
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", follow);
  setInterval(follow, AGAIN);

  const local = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
  const short = {
    "%H:%M": new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" }),
    "%d %b": new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" }),
  };
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const tell = () => {
    for (const tick of document.querySelectorAll("text[data-at]")) tick.textContent = short[tick.dataset.form].format(new Date(tick.dataset.at));
    for (const told of document.querySelectorAll(".zone")) told.textContent = `times in ${zone}`;
    for (const time of document.querySelectorAll("time[datetime]")) {
      const text = local.format(new Date(time.dateTime));
      if (time.classList.contains("moment")) time.textContent = text;
      else time.title = text;
    }
  };
  document.body.addEventListener("htmx:afterSwap", tell);
  tell();
})();

(() => {
  const box = document.getElementById("drift");
  if (!box) return;
  const plots = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const options = (width) => {
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    return {
      width,
      height: 200,
      series: [
        {},
        { label: "distance", stroke: colour("--accent"), width: 2, points: { size: 4 }, value: (_, v) => (v == null ? "–" : v.toFixed(4)) },
        { label: "margin", stroke: colour("--bad"), width: 1, dash: [6, 4], points: { show: false }, value: (_, v) => (v == null ? "–" : v.toFixed(4)) },
      ],
      axes: [axis, { ...axis, size: 64 }],
    };
  };

  const draw = (name, data) => {
    let entry = plots.get(name);
    if (!entry) {
      if (plots.size === 0) box.replaceChildren();
      const holder = document.createElement("div");
      holder.className = "plot";
      const title = document.createElement("h3");
      title.textContent = name;
      holder.append(title);
      box.append(holder);
      entry = { holder, plot: new uPlot(options(holder.clientWidth), data, holder) };
      plots.set(name, entry);
    } else {
      entry.plot.setData(data);
    }
  };

  const look = async () => {
    const answer = await fetch(box.dataset.source).catch(() => null);
    if (answer && answer.ok && !answer.redirected) {
      const document_ = await answer.json();
      for (const item of document_.items) {
        if (item.at.length) draw(`${item.model}, release ${item.release}`, [item.at, item.distance, item.margin]);
      }
    }
  };
  document.body.addEventListener("htmx:afterSwap", look);
  window.addEventListener("resize", () => {
    for (const { holder, plot } of plots.values()) plot.setSize({ width: holder.clientWidth, height: 200 });
  });
  look();
})();
