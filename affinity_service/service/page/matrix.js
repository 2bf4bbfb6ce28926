// The affinity matrix as numbers: partner contrasts, their errors, and the order that groups give it.

/** Values of |value| below so many standard errors could be chance. */
export const SURE = 2;
// Outliers are what a few tasks can make: this share of the pairs, or in a large matrix the rows of so many tasks.
const OUTLIERS = 0.02;
const OUTLYING_TASKS = 2.5;

/** From the service's answer with centred=true: every row without its mean over partners. */
export function readMatrix({tasks, affinity, standard_error: error, subsets, unit}) {
  const size = tasks.length;
  const values = Float64Array.from(affinity.flat());
  return {
    tasks,
    size,
    unit,
    values,
    errors: Float64Array.from(error.flat()),
    counts: Int32Array.from(subsets.flat()),
    limit: scaleEnd(values, size),
  };
}

export const isSure = (matrix, cell) => Math.abs(matrix.values[cell]) >= SURE * matrix.errors[cell];

/** The end of the colour scale: the largest value, unless a few outliers would wash out all others. */
function scaleEnd(values, size) {
  const magnitudes = new Float64Array(size * (size - 1));
  for (let cell = 0, kept = 0; cell < values.length; cell++)
    if (cell % (size + 1)) magnitudes[kept++] = Math.abs(values[cell]);
  magnitudes.sort();
  if (!magnitudes.length) return 1;
  const largest = magnitudes.at(-1);
  const usual = magnitudes[Math.floor((magnitudes.length - 1) * (1 - Math.min(OUTLIERS, OUTLYING_TASKS / size)))];
  return (usual > 0 && usual < largest / 2 ? usual : largest) || 1;
}

/** Tasks group by group, and where each group starts; tasks of no group come last, as a group of their own. */
export function orderByGroups(tasks, groups) {
  const index = new Map(tasks.map((task, i) => [task, i]));
  const known = groups
    .map((group) => group.map((task) => index.get(task)).filter((i) => i !== undefined))
    .filter((group) => group.length);
  const placed = new Set(known.flat());
  const rest = tasks.map((_, i) => i).filter((i) => !placed.has(i));
  const all = rest.length ? [...known, rest] : known;
  const starts = [];
  let start = 0;
  for (const group of all) {
    starts.push(start);
    start += group.length;
  }
  return {order: Int32Array.from(all.flat()), starts, groups: known.length};
}

/** The surest pairs that stand out most from their receiver's average partner, above and below. */
export function extremePairs(matrix, top) {
  const cells = [];
  for (let cell = 0; cell < matrix.values.length; cell++)
    if (cell % (matrix.size + 1) && isSure(matrix, cell)) cells.push(cell);
  cells.sort((a, b) => matrix.values[b] - matrix.values[a]);
  const above = cells.slice(0, top).filter((cell) => matrix.values[cell] > 0);
  const below = cells
    .slice(-top)
    .reverse()
    .filter((cell) => matrix.values[cell] < 0);
  return {above, below, sure: cells.length};
}
