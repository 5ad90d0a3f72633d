"use strict";
// Each colour on light paper, and what takes its place on a dark screen.
const colours = "COLOURS";
const dark = matchMedia("(prefers-color-scheme: dark)");
const items = [...document.querySelectorAll(".plot-item")].map((element) => element.textContent);
let drawn = [];
let drawing = Promise.resolve();

function rgb(hex) {
  return `rgb(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join()})`;
}

// Bokeh's drawings have some colours in one notation and some in the other.
function recolour(text, from, to) {
  return colours.reduce(
    (said, pair) => said.replaceAll(pair[from], pair[to]).replaceAll(rgb(pair[from]), rgb(pair[to])),
    text,
  );
}

async function draw() {
  for (const manager of drawn) manager.clear();
  drawn = [];
  for (const text of items) {
    const item = JSON.parse(dark.matches ? recolour(text, 0, 1) : text);
    document.getElementById(item.target_id).replaceChildren();
    drawn.push(await Bokeh.embed.embed_item(item));
  }
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

// A canvas prints as it stands on the screen, in its size and its colours. Paper gets drawings of its own instead, which
// must be there when this returns: the browser waits for nothing else.
function drawForPaper() {
  removePaper();
  const views = drawn.flatMap((manager) => [...manager]);
  // Bokeh's own notices are among them, without a place on the page.
  for (const view of views.filter(({model}) => model.tags.length)) {
    const svg = view.export("svg").canvas;
    const text = new XMLSerializer().serializeToString(svg);
    const paper = document.createElement("div");
    paper.className = "paper";
    paper.innerHTML = dark.matches ? recolour(text, 1, 0) : text;
    const image = paper.firstElementChild;
    image.setAttribute("viewBox", `0 0 ${view.bbox.width} ${view.bbox.height}`);
    image.removeAttribute("width");
    image.removeAttribute("height");
    document.getElementById(view.model.tags[0]).after(paper);
  }
}

function removePaper() {
  for (const paper of document.querySelectorAll(".paper")) paper.remove();
}

// A finger is gone before Bokeh has shown anything for it: a tap is told to the plot as a mouse that stays there.
let touched = null;
function tell(element, type, {clientX, clientY}) {
  // Without a view an event does not know how far the page is scrolled.
  const told = {clientX, clientY, view: window, isPrimary: true, pointerType: "mouse"};
  element.dispatchEvent(new PointerEvent(type, {...told, bubbles: true, composed: true}));
}

function tap(event) {
  if (event.pointerType !== "touch") return;
  if (touched !== null) tell(touched, "pointerout", event);
  touched = event.target.closest(".plot") === null ? null : event.composedPath()[0];
  if (touched !== null) tell(touched, "pointermove", event);
}

function redraw() {
  drawing = drawing.then(draw);
}

Bokeh.set_log_level("warn");
addEventListener("click", tap);
addEventListener("beforeprint", drawForPaper);
addEventListener("afterprint", removePaper);
dark.addEventListener("change", redraw);
redraw();
