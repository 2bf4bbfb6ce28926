// Numbers and times as people read them.

const MINUS = "−";
export const UNKNOWN = "–";

/** Decimals that show the largest value with so many digits; one choice per table keeps columns aligned. */
export function decimalsFor(values, significant = 3) {
  let largest = 0;
  for (const value of values) if (Number.isFinite(value)) largest = Math.max(largest, Math.abs(value));
  if (largest === 0) return significant;
  return Math.min(10, Math.max(0, significant - Math.floor(Math.log10(largest)) - 1));
}

export function number(value, decimals) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  const text = Math.abs(value).toFixed(decimals);
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
}

/** With + or −; a value that rounds to zero has neither. */
export function signed(value, decimals) {
  const text = number(value, decimals);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

export const withError = (value, error, decimals) => `${signed(value, decimals)} ± ${number(error, decimals)}`;

export const count = (value, thing) => `${value.toLocaleString("en")} ${thing}${value === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60).toLocaleString("en")} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function memory(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  let value = bytes;
  while (value >= 1024 && power < units.length - 1) [value, power] = [value / 1024, power + 1];
  return `${value.toFixed(power && value < 100 ? 1 : 0)} ${units[power]}`;
}

/** How long ago, as a `time` element's words. */
export function ago(iso, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (!Number.isFinite(seconds)) return UNKNOWN;
  if (seconds < 60) return "just now";
  for (const [size, unit] of [
    [86400, "day"],
    [3600, "hour"],
    [60, "minute"],
  ]) {
    if (seconds >= size) return `${count(Math.floor(seconds / size), unit)} ago`;
  }
  return UNKNOWN;
}

/** A task's name in at most `limit` characters; the middle goes, as names often differ at the end. */
export function short(name, limit) {
  if (name.length <= limit) return name;
  const tail = Math.floor((limit - 1) / 3);
  return `${name.slice(0, limit - 1 - tail)}…${name.slice(name.length - tail)}`;
}
