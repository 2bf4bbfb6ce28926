// Wheel, pointers and keys on the heatmap.

const STEP = 1.5;
const DRAGGED = 4; // pixels from which on a press is a drag

/** Let the reader zoom, drag, point, pick names and move the cursor. */
export function takeInput(map) {
  map.canvas.addEventListener("wheel", (event) => wheel(map, event), {passive: false});
  map.canvas.addEventListener("pointerdown", (event) => pressed(map, event));
  map.canvas.addEventListener("pointermove", (event) => dragged(map, event));
  for (const name of ["pointerup", "pointercancel"]) map.canvas.addEventListener(name, (event) => released(map, event));
  map.canvas.addEventListener("pointerleave", () => map.tell.pointed(null));
  map.canvas.addEventListener("keydown", (event) => key(map, event));
}

function wheel(map, event) {
  if (!map.scene) return;
  // The wheel scrolls the page unless the reader is at work on the map.
  if (!event.ctrlKey && !event.metaKey && document.activeElement !== map.canvas) return map.tell.hint();
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 20 : 1;
  map.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), {x: event.offsetX, y: event.offsetY});
}

function pressed(map, event) {
  map.pointers.set(event.pointerId, {
    x: event.offsetX,
    y: event.offsetY,
    startX: event.offsetX,
    startY: event.offsetY,
    moved: false,
  });
  map.canvas.setPointerCapture(event.pointerId);
}

function dragged(map, event) {
  if (!map.scene) return;
  const pointer = map.pointers.get(event.pointerId);
  const [x, y] = [event.offsetX, event.offsetY];
  if (!pointer) {
    const found = map.at(x, y);
    map.canvas.classList.toggle("on-name", found !== null && found.receiver === undefined);
    return map.tell.pointed(found?.receiver === undefined ? null : found, x, y);
  }
  if (map.pointers.size === 2) pinch(map, pointer, x, y);
  else if (pointer.moved || Math.hypot(x - pointer.startX, y - pointer.startY) > DRAGGED) {
    pointer.moved = true;
    map.tell.pointed(null);
    map.pan((pointer.x - x) / map.view.scale, (pointer.y - y) / map.view.scale);
  }
  Object.assign(pointer, {x, y});
}

function pinch(map, pointer, x, y) {
  const other = [...map.pointers.values()].find((one) => one !== pointer);
  const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
  const after = Math.hypot(x - other.x, y - other.y);
  pointer.moved = other.moved = true;
  if (before > 0) map.zoom(after / before, {x: (x + other.x) / 2, y: (y + other.y) / 2});
}

function released(map, event) {
  const pointer = map.pointers.get(event.pointerId);
  map.pointers.delete(event.pointerId);
  if (!map.scene || !pointer || pointer.moved || event.type === "pointercancel") return;
  const found = map.at(event.offsetX, event.offsetY);
  if (!found) return;
  if (found.receiver !== undefined) map.move(found.row, found.column);
  else map.selection.toggle(map.scene.matrix.tasks[map.scene.order[found.row ?? found.column]]);
}

function key(map, event) {
  if (!map.scene || event.altKey || event.ctrlKey || event.metaKey) return;
  const {size} = map.scene.matrix;
  const {row, column} = map.cursor ?? {row: 0, column: 0};
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [0, 0];
  const far = 0.2 * ((map.view.width - map.view.left) / map.view.scale);
  const starts = map.scene.starts;
  const acts = {
    "+": () => map.zoom(STEP),
    "=": () => map.zoom(STEP),
    "-": () => map.zoom(1 / STEP),
    0: () => map.reset(),
    Home: () => map.move(row, 0),
    End: () => map.move(row, size - 1),
    PageUp: () => map.move(starts.findLast((start) => start < row) ?? 0, column),
    PageDown: () => map.move(starts.find((start) => start > row) ?? size - 1, column),
    Enter: () => map.cursor && map.tell.pick(map.cell(row, column)),
    " ": () => map.cursor && map.tell.pick(map.cell(row, column)),
  };
  const act =
    x || y
      ? () =>
          event.shiftKey
            ? map.pan(far * x, far * y)
            : map.cursor
              ? map.move(row + y, column + x)
              : map.move(0, Math.min(1, size - 1))
      : acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
