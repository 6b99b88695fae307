"use strict";
// A form that is on its way is not sent again by a second click; the hub would refuse it, too.
(() => {
  for (const form of document.querySelectorAll("form.act")) {
    form.addEventListener("submit", (event) => {
      if (form.getAttribute("aria-busy") === "true") {
        event.preventDefault();
        return;
      }
      form.setAttribute("aria-busy", "true");
    });
    window.addEventListener("pageshow", () => form.removeAttribute("aria-busy"));
  }

  // One sound plays at a time.
  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);

  // Samples are labelled by keyboard: a number chooses the class and goes on to the next sample. Boxes have keys of
  // their own, see boxes.js.
  const samples = [...document.querySelectorAll("fieldset.sample")].filter((one) => one.querySelector("input") && !one.querySelector(".drawing"));
  if (samples.length === 0) return;
  const save = document.querySelector("form.act .buttons button");
  const go = (place) => {
    const next = samples[place];
    if (!next) {
      save.focus();
      save.scrollIntoView({ block: "center" });
      return;
    }
    const field = next.querySelector('input:checked:not([value=""])') ?? next.querySelector("input");
    field.focus({ preventScroll: true });
    next.scrollIntoView({ block: "center" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = samples.findIndex((one) => one.contains(document.activeElement));
    const radio = document.activeElement.type === "radio";
    if (place < 0 && document.activeElement !== document.body && document.activeElement !== save) return;
    const sound = radio ? samples[place].querySelector("audio") : null;
    if (event.key.toLowerCase() === "p" && sound) {
      event.preventDefault();
      if (sound.paused) sound.play();
      else sound.pause();
      return;
    }
    if (/^[0-9]$/.test(event.key) && (radio || place < 0)) {
      const at = place < 0 ? samples.findIndex((one) => !one.querySelector('input:checked:not([value=""])')) : place;
      const field = samples[at]?.querySelector(`input[type="radio"][value="${event.key}"]`);
      if (!field) return;
      event.preventDefault();
      field.checked = true;
      go(at + 1);
    } else if (event.key === "Backspace" && (radio || document.activeElement === save)) {
      event.preventDefault();
      go(place < 0 ? samples.length - 1 : Math.max(0, place - 1));
    }
  });
  go(0);
})();
