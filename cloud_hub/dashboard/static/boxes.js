"use strict";
// Boxes are drawn on a sample's picture, by pointer or by keys. The label's text, which is what is sent, follows every
// change; without this script people write it themselves.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 6;
  const DIGITS = { pixels: 1, share: 4 };
  const drawings = [...document.querySelectorAll(".drawing")];
  const within = (value, most) => Math.min(Math.max(value, 0), most);

  // A label's text as boxes in pixels, or null where it is none.
  const parse = (text, { scale, classes }) => {
    if (text.trim() === "") return { boxes: [], none: false };
    try {
      const boxes = JSON.parse(text).map((item) => {
        const found = classes.find(([number, name]) => number === item.class || name === item.class);
        if (!found || item.box.length !== 4 || !item.box.every(Number.isFinite)) throw new Error("no box");
        return { box: item.box.map((value, at) => value * scale[at % 2]), kind: found[0] };
      });
      return { boxes, none: boxes.length === 0 };
    } catch {
      return null;
    }
  };

  const start = (root) => {
    const width = Number(root.dataset.width);
    const height = Number(root.dataset.height);
    const unit = root.dataset.unit;
    const scale = unit === "share" ? [width, height] : [1, 1];
    const classes = JSON.parse(root.dataset.classes);
    const names = new Map(classes);
    const canvas = root.querySelector("svg");
    const layer = canvas.querySelector("g");
    const list = root.querySelector("ol");
    const field = root.querySelector("input");
    const kinds = root.querySelector("select");
    const said = root.querySelector(".said");
    const undo = root.querySelector('[data-do="undo"]');
    let state = parse(field.value, { scale, classes }) ?? { boxes: [], none: false };
    let chosen = -1;
    const history = [];

    const copy = () => ({ boxes: state.boxes.map(({ box, kind }) => ({ box: [...box], kind })), none: state.none });
    const remember = () => {
      history.push(copy());
      if (history.length > 100) history.shift();
    };
    const round = (value) => Number(value.toFixed(DIGITS[unit]));
    const written = ({ box, kind }) => ({ box: box.map((value, at) => round(value / scale[at % 2])), class: kind });
    const make = (name, attributes) => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      return made;
    };
    const pixel = () => width / (canvas.getBoundingClientRect().width || width); // of the screen, in the picture's

    const paint = () => {
      layer.replaceChildren();
      state.boxes.forEach(({ box: [x1, y1, x2, y2], kind }, at) => {
        const shown = `colour-${kind % COLOURS}${at === chosen ? " chosen" : ""}`;
        layer.append(make("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: shown }));
        if (at !== chosen) return;
        const size = 9 * pixel();
        for (const x of [x1, x2]) for (const y of [y1, y2]) layer.append(make("rect", { x: x - size / 2, y: y - size / 2, width: size, height: size, class: "corner" }));
      });
    };
    const tell = () => {
      const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
      list.replaceChildren(...state.boxes.map((one, place) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = `${names.get(one.kind)}: ${written(one).box.join(", ")}`;
        button.className = `colour-${one.kind % COLOURS}`;
        button.setAttribute("aria-pressed", String(place === chosen));
        button.addEventListener("focus", () => { if (chosen !== place) choose(place); });
        item.append(button);
        return item;
      }));
      if (at >= 0) (list.querySelectorAll("button")[Math.min(at, state.boxes.length - 1)] ?? canvas).focus();
    };
    const choose = (at) => {
      chosen = at;
      if (state.boxes[at]) kinds.value = String(state.boxes[at].kind);
      [...list.querySelectorAll("button")].forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
      paint();
    };
    const show = (words = "") => {
      field.value = state.boxes.length || state.none ? JSON.stringify(state.boxes.map(written)) : "";
      undo.disabled = history.length === 0;
      const number = state.boxes.length;
      said.textContent = words || (number ? `${number} box${number === 1 ? "" : "es"}` : state.none ? "Nothing is there" : "Left open");
      paint();
      tell();
    };
    const change = (act) => {
      remember();
      act();
      state.none &&= state.boxes.length === 0;
      show();
    };

    const acts = {
      add: () => change(() => {
        const [w, h] = [width / 4, height / 4];
        state.boxes.push({ box: [(width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2], kind: Number(kinds.value) });
        chosen = state.boxes.length - 1;
      }),
      undo: () => {
        if (!history.length) return;
        state = history.pop();
        chosen = Math.min(chosen, state.boxes.length - 1);
        show();
      },
      take: () => {
        const found = parse(root.dataset.start, { scale, classes });
        if (found) change(() => {
          state = found;
          chosen = 0;
        });
      },
      none: () => change(() => {
        state = { boxes: [], none: true };
        chosen = -1;
      }),
      remove: () => {
        if (chosen >= 0) change(() => {
          state.boxes.splice(chosen, 1);
          chosen = Math.min(chosen, state.boxes.length - 1);
        });
      },
      next: () => {
        if (state.boxes.length) choose((chosen + 1) % state.boxes.length);
      },
      go: () => {
        const after = drawings[drawings.indexOf(root) + 1]?.querySelector("svg") ?? document.querySelector("form.act .buttons button");
        after.focus({ preventScroll: true });
        after.scrollIntoView({ block: "center" });
      },
    };
    const give = (kind) => {
      if (!names.has(kind)) return;
      kinds.value = String(kind);
      if (chosen >= 0 && state.boxes[chosen].kind !== kind) change(() => { state.boxes[chosen].kind = kind; });
    };
    kinds.addEventListener("change", () => give(Number(kinds.value)));
    for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => acts[button.dataset.do]());
    field.addEventListener("change", () => {
      const read = parse(field.value, { scale, classes });
      if (read === null) {
        said.textContent = "This text is no list of boxes with known classes";
        return;
      }
      const text = field.value;
      change(() => {
        state = read;
        chosen = -1;
      });
      field.value = text; // as it was written, to the digit
    });

    // By keys: a step is a pixel of the picture, and five while a key is held.
    const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const KEYS = { n: "add", u: "undo", x: "none", b: "next", delete: "remove", backspace: "remove", enter: "go" };
    const move = (box, [dx, dy]) => {
      const x = within(box[0] + dx, width - (box[2] - box[0]));
      const y = within(box[1] + dy, height - (box[3] - box[1]));
      return [x, y, x + box[2] - box[0], y + box[3] - box[1]];
    };
    const stretch = (box, [dx, dy]) => [box[0], box[1], Math.max(box[0] + 1, within(box[2] + dx, width)), Math.max(box[1] + 1, within(box[3] + dy, height))];
    root.addEventListener("keydown", (event) => {
      const target = event.target;
      const undoes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
      if (target === field || target === kinds || event.altKey || ((event.ctrlKey || event.metaKey) && !undoes)) return;
      if ((event.key === "Enter" || event.key === " ") && target !== canvas) return;
      const arrow = ARROWS[event.key];
      if (undoes) acts.undo();
      else if (arrow && chosen >= 0) {
        const by = arrow.map((part) => part * (event.repeat ? 5 : 1));
        if (!event.repeat) remember();
        state.boxes[chosen].box = (event.shiftKey ? stretch : move)(state.boxes[chosen].box, by);
        show();
      } else if (/^[0-9]$/.test(event.key)) give(Number(event.key));
      else if (KEYS[event.key.toLowerCase()]) acts[KEYS[event.key.toLowerCase()]]();
      else return;
      event.preventDefault();
    });

    // By pointer: a corner of the chosen box changes its size, within it moves it, anywhere else a new one begins; a
    // click chooses the smallest box below.
    const place = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse());
      return [within(at.x, width), within(at.y, height)];
    };
    const inside = ([x, y], [x1, y1, x2, y2]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    const fixed = ([x, y], box) => {
      const near = 10 * pixel();
      for (const [a, b] of [[0, 1], [0, 3], [2, 1], [2, 3]]) {
        if (Math.abs(x - box[a]) <= near && Math.abs(y - box[b]) <= near) return [box[2 - a], box[4 - b]];
      }
      return null;
    };
    const spanned = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || drag) return;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      const from = place(event);
      const box = state.boxes[chosen]?.box;
      const corner = box ? fixed(from, box) : null;
      drag = { from, corner, box: corner || (box && inside(from, box)) ? [...box] : null, before: copy(), moved: false, at: chosen };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const to = place(event);
      const by = [to[0] - drag.from[0], to[1] - drag.from[1]];
      if (!drag.moved && Math.hypot(...by) < 3 * pixel()) return;
      if (!drag.moved && !drag.box) {
        state.boxes.push({ box: spanned(drag.from, to), kind: Number(kinds.value) });
        drag.at = chosen = state.boxes.length - 1;
      }
      drag.moved = true;
      const { box, corner, from } = drag;
      state.boxes[drag.at].box = corner ? spanned(corner, to) : box ? move(box, by) : spanned(from, to);
      paint();
    });
    const finish = () => {
      if (!drag) return;
      if (drag.moved) {
        history.push(drag.before);
        state.none = false;
        show();
      } else {
        const below = state.boxes.map(({ box }, at) => [at, box]).filter(([, box]) => inside(drag.from, box));
        below.sort((one, other) => area(one[1]) - area(other[1]));
        choose(below.length ? below[0][0] : -1);
      }
      drag = null;
    };
    canvas.addEventListener("pointerup", finish);
    canvas.addEventListener("pointercancel", finish);

    root.querySelector(".tools").hidden = false;
    root.querySelector("details").open = false;
    const typed = field.value;
    show();
    if (typed && !field.value) field.value = typed; // what cannot be drawn stays as it was written
  };

  drawings.forEach(start);
  drawings[0]?.querySelector("svg").focus({ preventScroll: true });
})();
