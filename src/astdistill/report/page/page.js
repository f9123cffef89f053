"use strict";
const tip = document.getElementById("tip");
const told = document.getElementById("told");
const galleries = {};

function measure(element, name) {
  return Number(element.style.getPropertyValue(name));
}

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
    const width = measure(element, "--width");
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
    return label.map(([owner, percent]) => `${percent} % ${data.classes[owner]}`).join(", ");
  }

  // One stop of the tab key for all images; arrow keys go from one to the next, and their labels are read out.
  function walk() {
    const tiles = [...element.querySelectorAll(".tile")];
    tiles[0].tabIndex = 0;
    element.addEventListener("focusin", (event) => { if (event.target.matches(".tile")) told.textContent = describe(event.target); });
    element.addEventListener("focusout", () => { tip.hidden = true; });
    element.addEventListener("keydown", (event) => {
      if (!event.target.matches(".tile")) return;
      if (event.key === "Escape") tip.hidden = true;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = tiles[tiles.indexOf(event.target) + step];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  galleries[data.run] = { element, data };
  if (data.soft) walk();
  document.querySelectorAll(`.start[data-of="${data.run}"]`).forEach((each) => each.style.setProperty("--sheet", sheets[0]));

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

// The images as they are shown, on one sheet with the names of their classes.
async function picture({ element, data }) {
  const sheet = new Image();
  sheet.src = element.style.getPropertyValue("--sheet").trim().replace(/^url\(["']?|["']?\)$/g, "");
  await sheet.decode();
  const [width, height, columns, border] = ["--width", "--height", "--columns", "--border"].map((name) => measure(element, name));
  const count = data.classes.length * data.ipc;
  const factor = Math.max(1, Math.round((count > 200 ? 64 : 96) / width));
  const [across, down, gap, line] = [width * factor, height * factor, 4, 20];
  const strip = Math.min(data.ipc, 10);
  const side = Math.min(data.classes.length, Math.max(1, Math.floor((count > 200 ? 30 : 10) / strip)));
  const block = [strip * (across + gap) + 8, line + Math.ceil(data.ipc / strip) * (down + gap) + 8];
  const canvas = document.createElement("canvas");
  canvas.width = side * block[0] + 8;
  canvas.height = Math.ceil(data.classes.length / side) * block[1] + 8;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#222";
  pen.font = "13px sans-serif";
  pen.imageSmoothingEnabled = false;
  data.classes.forEach((name, label) => {
    const [left, top] = [8 + (label % side) * block[0], 8 + Math.floor(label / side) * block[1]];
    let text = name;
    while (text.length > 1 && pen.measureText(text).width > block[0] - 8) text = `${text.slice(0, -2)}…`;
    pen.fillText(text, left, top + 14);
    for (let image = 0; image < data.ipc; image += 1) {
      const index = label * data.ipc + image;
      const from = [(index % columns) * (width + 2 * border) + border, Math.floor(index / columns) * (height + 2 * border) + border];
      const to = [left + (image % strip) * (across + gap), top + line + Math.floor(image / strip) * (down + gap)];
      pen.drawImage(sheet, ...from, width, height, ...to, across, down);
    }
  });
  return new Promise((done) => { canvas.toBlob(done, "image/png"); });
}

async function save(button) {
  const shown = galleries[button.dataset.gallery];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await picture(shown));
  link.download = `${button.dataset.file}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // a browser that gives pages from files no clipboard
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  told.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.querySelectorAll(".gallery:not(.start)").forEach(gallery);
document.querySelectorAll(".save").forEach((each) => each.addEventListener("click", () => save(each)));
document.querySelectorAll(".copy").forEach((each) => each.addEventListener("click", () => copy(each)));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
