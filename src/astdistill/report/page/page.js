"use strict";
const tip = document.getElementById("tip");

function gallery(element) {
  const data = JSON.parse(element.querySelector("script").textContent);
  const slider = element.querySelector("input");
  const output = element.querySelector("output");
  const play = element.querySelector(".play");
  const last = data.captions.length - 1;
  const sheets = data.sheets.map((address) => `url(${address})`).concat(element.style.getPropertyValue("--sheet"));
  let timer = null;

  function show(frame) {
    element.style.setProperty("--sheet", sheets[frame]);
    element.dataset.frame = frame;
    if (output) output.textContent = `${data.captions[frame]}, η ${data.rates[frame].toPrecision(3)}`;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
  }

  function describe(tile) {
    const image = Number(tile.dataset.image);
    const frame = Number(element.dataset.frame);
    const label = data.soft ? data.soft[frame][image] : [];
    const large = tip.querySelector(".tile");
    const width = Number(element.style.getPropertyValue("--width"));
    for (const name of ["--sheet", "--width", "--height", "--border", "--columns", "--rows"]) large.style.setProperty(name, element.style.getPropertyValue(name));
    for (const name of ["--x", "--y"]) large.style.setProperty(name, tile.style.getPropertyValue(name));
    large.style.setProperty("--tile", `${width * Math.max(1, Math.round(160 / width))}px`);
    large.hidden = tile.offsetWidth >= 120; // large enough where it stands
    tip.querySelector("b").textContent = tile.getAttribute("aria-label");
    tip.querySelector("ol").replaceChildren(...label.map(([owner, percent]) => {
      const line = document.createElement("li");
      for (const word of [`${percent} %`, data.classes[owner]]) line.appendChild(document.createElement("span")).textContent = word;
      return line;
    }));
    tip.hidden = false;
    const place = tile.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(above > 0 ? above : place.bottom + 8) + scrollY}px`;
  }

  show(last);
  element.addEventListener("pointerover", (event) => event.target.matches(".tile") && describe(event.target));
  element.addEventListener("pointerout", () => { tip.hidden = true; });
  if (!slider) return;
  slider.value = last; // browsers bring back the place of an earlier visit
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === last) slider.value = 0;
    show(Number(slider.value));
    play.textContent = "❚❚";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show(Number(slider.value));
      if (Number(slider.value) === last) stop();
    }, 500);
  });
}

document.querySelectorAll(".gallery").forEach(gallery);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
