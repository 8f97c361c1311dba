"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const one = (id) => document.getElementById(id);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const { layers, side } = data;
  const places = side * side;

  // Attention is unpacked when a picture is first pointed at.
  const unpacked = new Map();
  const bytes = (index, from) => {
    const key = index + from;
    if (!unpacked.has(key)) {
      unpacked.set(key, Uint8Array.from(atob(data.looks[index][from].bytes), (c) => c.charCodeAt(0)));
    }
    return unpacked.get(key);
  };

  // Yellow, orange, dark red; a place without attention leaves the picture as it is.
  const stops = [[255, 221, 87], [246, 131, 29], [196, 22, 42], [92, 0, 46]];
  const colour = (share) => {
    const at = Math.min(share, 0.9999) * (stops.length - 1);
    const [low, high] = [stops[Math.floor(at)], stops[Math.floor(at) + 1]];
    return low.map((value, k) => value + (high[k] - value) * (at % 1));
  };
  const paint = (canvas, values) => {
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    values.forEach((value, place) => {
      const share = value / 255;
      image.data.set([...colour(share), 205 * share], 4 * place);
    });
    context.putImageData(image, 0, 0);
  };

  const percent = (share) => (100 * share).toPrecision(2) + " %";
  const shown = (shot) => shot.querySelector(".word.on");
  const show = (shot, word) => {
    all(".word", shot).forEach((other) => other.classList.toggle("on", other === word));
    shot.querySelector(".view").classList.toggle("on", Boolean(word));
    const told = shot.querySelector(".told");
    if (!word) { told.textContent = ""; return; }
    const [index, part] = [Number(shot.dataset.i), Number(word.dataset.w)];
    const [layer, from] = [Number(one("layer").value), one("from").value];
    const look = data.looks[index][from];
    const start = (layer * look.sum[0].length + part) * places;
    paint(shot.querySelector("canvas"), bytes(index, from).subarray(start, start + places));
    const where = layer ? `layer ${layer}` : `mean of ${layers} layers`;
    told.textContent = `${percent(look.sum[layer][part])} of the attention goes to the picture, `
      + `${percent(look.most[layer][part])} to its largest place; evenly it would be `
      + `${percent(look.sum[layer][part] / places)} (${where})`;
  };

  // A word is shown while it is pointed at or has the focus; a click holds it until the next one.
  const held = (shot) => shot.querySelector(".word.held") ?? null;
  all(".shot").forEach((shot) => {
    all(".word", shot).forEach((word) => {
      word.addEventListener("pointerenter", (event) => {
        if (event.pointerType !== "touch") show(shot, word);
      });
      word.addEventListener("pointerleave", (event) => {
        if (event.pointerType !== "touch") show(shot, held(shot));
      });
      word.addEventListener("focus", () => { if (word.matches(":focus-visible")) show(shot, word); });
      word.addEventListener("blur", () => show(shot, held(shot)));
      word.addEventListener("click", () => {
        const was = word.classList.contains("held");
        all(".word.held", shot).forEach((other) => other.classList.remove("held"));
        word.classList.toggle("held", !was);
        show(shot, was ? null : word);
      });
    });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    all(".word.held").forEach((word) => word.classList.remove("held"));
    all(".shot").forEach((shot) => show(shot, null));
  });

  const again = () => all(".shot").forEach((shot) => { if (shown(shot)) show(shot, shown(shot)); });
  one("layer").addEventListener("change", again);
  one("from").addEventListener("change", again);
  one("order").addEventListener("change", () => {
    const way = one("order").value;
    const value = (shot) => Number(way === "split" ? shot.dataset.i : shot.dataset.v);
    const sorted = all(".shot").sort((a, b) => (value(a) - value(b)) * (way === "down" ? -1 : 1));
    one("pictures").append(...sorted);
  });
  one("controls").addEventListener("submit", (event) => event.preventDefault());
})();
