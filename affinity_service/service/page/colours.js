// Colours of the heatmap: diverging, told apart by everyone, centred on the page's own ground.

// From most harmful to most helpful; red against blue is what the common colour blindnesses keep apart.
const LIGHT = [
  "#67001f",
  "#b2182b",
  "#d6604d",
  "#f4a582",
  "#fddbc7",
  "#f7f7f7",
  "#d1e5f0",
  "#92c5de",
  "#4393c3",
  "#2166ac",
  "#053061",
];
const DARK = [
  "#ffd0c2",
  "#ffab94",
  "#f08368",
  "#b9563f",
  "#6d3a31",
  "#2a2f35",
  "#28465e",
  "#2f6c99",
  "#4b98cf",
  "#86bfee",
  "#cfe7ff",
];
// So much of a colour is left where a value may be chance.
const MUTED = 0.3;
const STEPS = 255;

const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function ramp(stops) {
  const colours = stops.map(parse);
  return Array.from({length: STEPS}, (_, step) => {
    const place = (step / (STEPS - 1)) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    return colours[low].map((channel, i) => Math.round(channel + (place - low) * (colours[low + 1][i] - channel)));
  });
}

function theme(stops, rest) {
  const sure = ramp(stops);
  const middle = parse(stops[5]);
  return {
    sure,
    muted: sure.map((colour) => colour.map((channel, i) => Math.round(middle[i] + MUTED * (channel - middle[i])))),
    ...rest,
  };
}

const THEMES = {
  light: theme(LIGHT, {
    diagonal: [212, 212, 212],
    ink: "#1c2126",
    quiet: "#59636e",
    line: "#d5dae0",
    border: "#222222",
    card: "#ffffff",
    accent: "#1a5fa0",
    onDark: "#ffffff",
    mark: "#59636e",
  }),
  dark: theme(DARK, {
    diagonal: [70, 77, 85],
    ink: "#e3e7ea",
    quiet: "#a0aab4",
    line: "#3b434b",
    border: "#f0f3f5",
    card: "#1b1f23",
    accent: "#86bdf0",
    onDark: "#ffffff",
    mark: "#a0aab4",
  }),
};

const dark = matchMedia("(prefers-color-scheme: dark)");
export const currentTheme = () => (dark.matches ? THEMES.dark : THEMES.light);
export const onThemeChange = (act, signal) => dark.addEventListener("change", act, {signal});

/** [r, g, b] of a value on a scale from −limit to limit. */
export function colourOf(colours, value, limit, sure = true) {
  const step = Math.round(((Math.max(-1, Math.min(1, value / limit)) + 1) / 2) * (STEPS - 1));
  return (sure ? colours.sure : colours.muted)[step];
}

/** Ink that can be read on a colour. */
export const inkOn = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111418" : "#ffffff");
