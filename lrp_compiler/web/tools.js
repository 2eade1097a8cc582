/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element: properties, then children; texts stay texts. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A few significant digits, with a true minus sign and, if `signed`, a plus. */
export function format(value, signed = false, digits = 4) {
  if (!Number.isFinite(value)) return "not a number";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? size.toExponential(digits - 2) : size.toPrecision(digits);
  const short = text.includes("e") ? text.replace("e-", "e−") : String(Number(text));
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + short;
}

/** The sum in double precision. */
export function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

const POSITIVE = [222, 45, 38];
const NEGATIVE = [33, 102, 224];

/** A signed strength in [−1, 1] as [red, green, blue, alpha]: nothing at zero, and alike on both sides of it. */
export function colour(strength) {
  return [...(strength < 0 ? NEGATIVE : POSITIVE), Math.min(Math.abs(strength), 1) ** 0.7];
}
