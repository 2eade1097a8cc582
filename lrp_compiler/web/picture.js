import { $, colour, element } from "./tools.js";

const DISPLAY = 672; // pixels on the shorter side of the photo on the page

/** Pictures as the network's input, and relevance as a heatmap. */
export class Picture {
  question = "Picture";
  subject = "pixels";
  #site;

  /** `submit(load)` is called with what makes the feeds whenever the visitor gives a picture. */
  constructor(site, submit) {
    this.#site = site;
    $("ask-image").hidden = $("why-image").hidden = false;
    const choose = (file) => file && submit(() => this.#feeds(file));
    $("file").addEventListener("change", ({ target }) => {
      choose(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
    document.addEventListener("paste", ({ clipboardData }) => choose(clipboardData?.files[0]));
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind === "drop") choose(event.dataTransfer.files[0]);
      });
    }
    for (const id of ["overlay", "beside"]) {
      $(id).addEventListener("change", () => this.#arrange());
    }
    $("opacity").addEventListener("input", () => this.#arrange());
    this.#arrange();
  }

  async start() {}

  /** A thumbnail, and what it stands for. */
  example({ file, name }) {
    const load = async () => {
      const response = await fetch(new URL(file, document.baseURI));
      if (!response.ok) throw new Error(`The example ${name} could not be loaded.`);
      return this.#feeds(await response.blob());
    };
    return [element("img", { src: file, alt: name, loading: "lazy" }), load];
  }

  /** Draw the heatmap; returns the relevance at which the colours end, and what the page says about them. */
  show({ data }, { photo }) {
    const { channels, height, width } = this.#site.input;
    const map = new Float32Array(height * width);
    for (let channel = 0; channel < channels; channel++) {
      for (let at = 0; at < map.length; at++) map[at] += data[channel * map.length + at];
    }
    // A few pixels dwarf all others: beyond the 99.5th percentile the colour says only "much".
    const limit = map.map(Math.abs).sort()[Math.floor(0.995 * (map.length - 1))] || 1;
    const pixels = new ImageData(width, height);
    map.forEach((relevance, at) => {
      const [red, green, blue, alpha] = colour(relevance / limit);
      pixels.data.set([red, green, blue, 255 * alpha], 4 * at);
    });
    const small = canvas(element("canvas"), width, height);
    small.putImageData(pixels, 0, 0);
    this.#draw($("photo"), (context, w, h) => context.drawImage(photo, 0, 0, w, h));
    this.#draw($("heat"), (context, w, h) => context.drawImage(small.canvas, 0, 0, w, h));
    return { limit, hint: "Summed over the colour channels. The colours end at this picture's 99.5th percentile." };
  }

  #draw(target, paint) {
    const { height, width } = this.#site.input;
    const scale = Math.max(1, DISPLAY / Math.min(height, width));
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    paint(canvas(target, w, h), w, h);
  }

  #arrange() {
    const overlay = $("overlay").checked;
    const opacity = overlay ? $("opacity").value / 100 : 1;
    $("stage").dataset.view = overlay ? "overlay" : "beside";
    $("strength").hidden = !overlay;
    $("heat").style.opacity = opacity;
    $("photo").style.filter = overlay ? `grayscale(${opacity})` : "none";
  }

  /** The picture cut, scaled and normalised as the network wants it, and a larger copy to look at. */
  async #feeds(blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      throw new Error("This file is not a picture that the browser can read; try a JPEG or a PNG.");
    }
    const { name, channels, height, width } = this.#site.input;
    const { mean, std, crop, resize } = this.#site.preprocessing;
    const area = resize === "stretch" ? [0, 0, bitmap.width, bitmap.height] : middle(bitmap, width / height, crop);
    const scale = Math.max(1, DISPLAY / Math.min(height, width));
    const shown = canvas(element("canvas"), Math.round(width * scale), Math.round(height * scale));
    shown.drawImage(bitmap, ...area, 0, 0, shown.canvas.width, shown.canvas.height);
    const seen = canvas(element("canvas"), width, height);
    seen.drawImage(bitmap, ...area, 0, 0, width, height);
    bitmap.close();
    const pixels = seen.getImageData(0, 0, width, height).data;
    const data = new Float32Array(channels * height * width);
    for (let at = 0; at < height * width; at++) {
      const rgb = pixels.subarray(4 * at, 4 * at + 3);
      const values = channels === 3 ? rgb : [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]];
      for (let channel = 0; channel < channels; channel++) {
        data[channel * height * width + at] = (values[channel] / 255 - mean[channel]) / std[channel];
      }
    }
    const feeds = { [name]: { type: "float32", data, dims: [1, channels, height, width] } };
    return { feeds, photo: shown.canvas };
  }
}

/** The largest area of this aspect in the middle of the picture, times `crop`: left, top, width, height. */
function middle(bitmap, aspect, crop) {
  const width = crop * Math.min(bitmap.width, bitmap.height * aspect);
  const height = width / aspect;
  return [(bitmap.width - width) / 2, (bitmap.height - height) / 2, width, height];
}

function canvas(target, width, height) {
  Object.assign(target, { width, height });
  const context = target.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return context;
}
