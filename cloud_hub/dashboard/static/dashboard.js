"use strict";
// Draws drift over time, one plot per model, and says when the hub does not answer.
(() => {
  const box = document.getElementById("drift");
  const connection = document.getElementById("connection");
  const plots = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const say = (alive) => {
    connection.textContent = alive ? "live" : "the hub does not answer";
    connection.classList.toggle("lost", !alive);
  };
  document.body.addEventListener("htmx:afterRequest", (event) => say(event.detail.successful));
  document.body.addEventListener("htmx:sendError", () => say(false));

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

  const draw = (model, data) => {
    let entry = plots.get(model);
    if (!entry) {
      if (plots.size === 0) box.replaceChildren();
      const holder = document.createElement("div");
      holder.className = "plot";
      const title = document.createElement("h3");
      title.textContent = model;
      holder.append(title);
      box.append(holder);
      entry = { holder, plot: new uPlot(options(holder.clientWidth), data, holder) };
      plots.set(model, entry);
    } else {
      entry.plot.setData(data);
    }
  };

  const look = async () => {
    const answer = await fetch(box.dataset.source).catch(() => null);
    if (answer && answer.ok && !answer.redirected) {
      const document_ = await answer.json();
      for (const item of document_.items) {
        if (item.at.length) draw(item.model, [item.at, item.distance, item.margin]);
      }
    }
    setTimeout(look, 4000);
  };
  window.addEventListener("resize", () => {
    for (const { holder, plot } of plots.values()) plot.setSize({ width: holder.clientWidth, height: 200 });
  });
  look();
})();
