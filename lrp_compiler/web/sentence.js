import { $, colour, element, format } from "./tools.js";

const MARKS = /^(##|Ġ|▁)/; // how WordPiece, byte-level BPE and SentencePiece say where a word goes on or starts
const SHADE = 0.62; // of a colour behind text, which has to stay legible; and so of the scale

/** Sentences as the network's input, and relevance as the colour of their tokens. */
export class Sentence {
  question = "Sentence";
  subject = "tokens";
  #site;
  #tokenizer;

  /** `submit(load)` is called with what makes the feeds whenever the visitor gives a sentence. */
  constructor(site, submit) {
    this.#site = site;
    $("ask-text").hidden = $("why-text").hidden = false;
    const ask = () => submit(() => this.#feeds($("text").value));
    $("ask-text").addEventListener("submit", (event) => {
      event.preventDefault();
      ask();
    });
    $("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      ask();
    });
    $("values").addEventListener("change", () => $("tokens").classList.toggle("values", $("values").checked));
    $("tokens").addEventListener("keydown", walk);
  }

  async start() {
    const read = async (file) => {
      if (!file) return {};
      const response = await fetch(new URL(file, document.baseURI));
      if (!response.ok) throw new Error(`The tokenizer could not be loaded: the server answered ${response.status}.`);
      return response.json();
    };
    const { file, config } = this.#site.tokenizer;
    const [library, ...data] = await Promise.all([
      import("./vendor/tokenizers/tokenizers.js"), read(file), read(config),
    ]);
    this.#tokenizer = new library.Tokenizer(...data);
    // A language model's classes are its tokens.
    this.#site.labels ??= this.#site.output.next ? new Vocabulary(this.#tokenizer, this.#site.classes) : null;
  }

  example({ text }) {
    const load = () => {
      $("text").value = text;
      return this.#feeds(text);
    };
    return [text, load];
  }

  /** Colour the tokens; returns the relevance at which the colours end, and what the page says about them. */
  show({ data }, { encoding: { ids, tokens } }) {
    const limit = data.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    const spaced = tokens.some((token) => /^[Ġ▁]/.test(token));
    const items = tokens.map((token, at) => {
      const mark = MARKS.exec(token)?.[0];
      const item = element("li", { tabIndex: at ? -1 : 0 }, spelled(this.#tokenizer, ids[at], token));
      item.classList.toggle("glued", at > 0 && (spaced ? !mark : mark === "##"));
      const [red, green, blue, alpha] = colour(data[at] / limit);
      item.style.backgroundColor = `rgb(${red} ${green} ${blue} / ${SHADE * alpha})`;
      item.dataset.value = format(data[at], true, 3);
      item.setAttribute("aria-label", `${item.textContent}: ${item.dataset.value}`);
      return item;
    });
    $("tokens").replaceChildren(...items);
    $("scale").style.opacity = SHADE;
    return { limit, hint: "Point at a token, or go there with Tab and the arrow keys, to read its relevance." };
  }

  /** A sentence as tensors by the names of the network's inputs, and its tokens. */
  #feeds(text) {
    if (!text.trim()) throw new Error("There is no sentence yet: type one, or take an example.");
    const { names, length, most } = this.#site.input;
    const encoding = this.#tokenizer.encode(text, { return_token_type_ids: true });
    const count = encoding.ids.length;
    if (count > most) throw new Error(`This text has ${count} tokens; the model takes at most ${most}.`);
    const padding = Math.max(0, (length ?? 0) - count);
    if (padding && (this.#site.output.next || !names.attention_mask)) {
      throw new Error(`This text has ${count} tokens; the model was compiled for ${length}, and cannot leave any out.`);
    }
    const filled = (values, value) => BigInt64Array.from([...values, ...Array(padding).fill(value)], BigInt);
    const tensors = {
      input_ids: filled(encoding.ids, this.#site.tokenizer.pad),
      attention_mask: filled(encoding.attention_mask, 0),
      token_type_ids: filled(encoding.token_type_ids ?? encoding.ids.map(() => 0), 0),
    };
    const feeds = {};
    for (const [kind, name] of Object.entries(names)) {
      feeds[name] = { type: "int64", data: tensors[kind], dims: [1, tensors[kind].length] };
    }
    return { feeds, encoding };
  }
}

/** Labels of a language model, spelled when they are asked for. */
class Vocabulary {
  constructor(tokenizer, length) {
    Object.assign(this, { tokenizer, length });
  }

  at(id) {
    const token = this.tokenizer.id_to_token(id);
    return token === undefined ? "" : spelled(this.tokenizer, id, token);
  }
}

function spelled(tokenizer, id, token) {
  const plain = token.replace(MARKS, "");
  // Byte-level tokens print bytes as odd letters; the decoder knows what they are.
  const text = /^[\x20-\x7e]*$/.test(plain) ? plain : tokenizer.decode([id]).trim() || plain;
  return text.replaceAll("\n", "⏎").replaceAll("Ċ", "⏎") || "␣";
}

/** Arrow keys, Home and End move among the tokens; Tab leaves them. */
function walk(event) {
  const items = [...$("tokens").children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: items.length - 1 };
  const next = items[to[event.key]];
  if (!next) return;
  event.preventDefault();
  items[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
