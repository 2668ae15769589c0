"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const places = [...document.querySelectorAll(".chart")];

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function showNeighbours(place, clicks, output) {
  const words = (at) => [clicks.names[at], clicks.descriptions[at], clicks.lengths[at].toLocaleString("en")].filter((word) => word !== "").join(" · ");
  const list = document.createElement("ol");
  clicks.places[place].forEach((at, rank) => list.append(element("li", `${clicks.cosines[place][rank].toFixed(3)} · ${words(at)}`)));
  output.replaceChildren(element("p", `Nearest to ${words(place)}`), list);
}

function joinMap(points) {
  const output = document.getElementById("nearest"), clicks = read("clicks");
  const selected = points.data_source.selected;
  let isOurs = false;
  selected.change.connect(() => {
    const [place] = selected.indices;
    if (isOurs || place === undefined) return;
    showNeighbours(place, clicks, output);
    isOurs = true;
    selected.indices = [place, ...clicks.places[place]];
    isOurs = false;
  });
  const choice = document.getElementById("colouring");
  choice.addEventListener("change", () => {
    points.glyph.fill_color = { field: `colour${choice.value}` };
    points.glyph.marker = { field: `marker${choice.value}` };
    for (const legend of document.querySelectorAll(".legend")) legend.hidden = legend.dataset.colouring !== choice.value;
  });
}

Promise.all(places.map((place) => Bokeh.embed.embed_item(read(`data-${place.id}`), place.id))).then(() => {
  const points = Bokeh.documents.map((one) => one.get_model_by_name("renderer")).find((model) => model !== null);
  if (points) joinMap(points);
  document.documentElement.dataset.drawn = places.length;
});
