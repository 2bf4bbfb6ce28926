// The canvas of the heatmap: what of it is seen, and where the cursor is.

import {currentTheme, onThemeChange} from "./colours.js";
import {h} from "./dom.js";
import {takeInput} from "./heatmap_input.js";
import {draw, paintPixels, showsNames} from "./heatmap_draw.js";

const LARGEST = 72; // pixels per cell
const READABLE = 18;
const FOR_GROUPS = 66; // pixels of margin

/**
 * @param signal aborted when the heatmap is gone.
 * @param tell {pointed(cell | null, x, y), moved(cell), pick(cell), hint()}; a cell is {row, column, receiver, source},
 *   the latter two indices of tasks.
 */
export class Heatmap {
  constructor(selection, signal, tell) {
    this.selection = selection;
    this.tell = tell;
    this.canvas = h("canvas", {
      class: "heatmap",
      tabindex: "0",
      role: "application",
      "aria-roledescription": "heatmap",
      "aria-label": "Affinity heatmap",
      "aria-describedby": "heatmap-keys",
    });
    this.context = this.canvas.getContext("2d");
    this.view = {width: 0, height: 0, left: 0, top: 0, x: 0, y: 0, scale: 1};
    this.cursor = null;
    this.frame = 0;
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    onThemeChange(() => this.repaint(), signal);
    selection.addEventListener("change", () => this.redraw(), {signal});
    takeInput(this);
  }

  show(matrix, {order, starts, groups}) {
    const held = this.cursor &&
      this.scene && {receiver: this.scene.order[this.cursor.row], source: this.scene.order[this.cursor.column]};
    this.scene = {matrix, order, starts, groups};
    this.places = new Int32Array(matrix.size);
    order.forEach((task, place) => (this.places[task] = place));
    // The cursor stays with its pair when groups change the order.
    if (held) this.cursor = {row: this.places[held.receiver], column: this.places[held.source]};
    this.repaint();
    this.resize();
  }

  repaint() {
    if (!this.scene) return;
    this.scene.colours = currentTheme();
    this.scene.pixels = paintPixels(this.scene.matrix, this.scene.order, this.scene.colours);
    this.redraw();
  }

  resize() {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    if (!this.scene || !width) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const fitted = this.view.width === 0 || this.view.scale <= this.fit() * 1.001;
    const longest = this.scene.matrix.tasks.reduce((most, task) => Math.max(most, task.length), 0);
    this.forNames = Math.round(Math.min(width * 0.24, 150, Math.max(FOR_GROUPS, 20 + 6.6 * longest)));
    Object.assign(this.view, {width, height});
    if (fitted) this.reset();
    else this.place();
  }

  /** Pixels per cell with which all of the matrix is seen. */
  fit() {
    const {width, height} = this.view;
    const within = (margin) => Math.min(LARGEST, (Math.min(width, height) - margin) / this.scene.matrix.size);
    const coarse = within(FOR_GROUPS);
    return showsNames(coarse) ? within(this.forNames) : coarse;
  }

  /** The pixels per cell, and with them the margins: names need more room than numbers of groups. */
  setScale(scale) {
    const margin = showsNames(scale) ? this.forNames : FOR_GROUPS;
    Object.assign(this.view, {scale, left: margin, top: margin});
  }

  reset() {
    Object.assign(this.view, {x: 0, y: 0});
    this.setScale(this.fit());
    this.place();
  }

  /** Zoom by a factor about a point of the canvas, the cursor or the middle. */
  zoom(factor, at = this.middle()) {
    const {left, top, scale} = this.view;
    const [x, y] = [this.view.x + (at.x - left) / scale, this.view.y + (at.y - top) / scale];
    this.setScale(Math.min(LARGEST, Math.max(this.fit(), scale * factor)));
    this.view.x = x - (at.x - this.view.left) / this.view.scale;
    this.view.y = y - (at.y - this.view.top) / this.view.scale;
    this.place();
  }

  pan(cellsX, cellsY) {
    this.view.x += cellsX;
    this.view.y += cellsY;
    this.place();
  }

  /** Keep the matrix in view, and draw. */
  place() {
    const {width, height, left, top, scale} = this.view;
    const {size} = this.scene.matrix;
    this.view.x = Math.max(0, Math.min(this.view.x, size - (width - left) / scale));
    this.view.y = Math.max(0, Math.min(this.view.y, size - (height - top) / scale));
    this.canvas.classList.toggle("zoomed", scale > this.fit() * 1.001);
    this.redraw();
  }

  middle() {
    const {width, height, left, top, x, y, scale} = this.view;
    if (this.cursor) {
      const at = {x: left + (this.cursor.column + 0.5 - x) * scale, y: top + (this.cursor.row + 0.5 - y) * scale};
      if (at.x >= left && at.x <= width && at.y >= top && at.y <= height) return at;
    }
    return {x: (left + width) / 2, y: (top + height) / 2};
  }

  redraw() {
    if (!this.scene || this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      performance.mark("heatmap-start");
      draw(this.context, devicePixelRatio || 1, this.view, {
        ...this.scene,
        picked: this.selection,
        cursor: this.cursor,
      });
      performance.measure("heatmap-draw", "heatmap-start");
      performance.clearMarks("heatmap-start");
      performance.clearMeasures("heatmap-draw");
    });
  }

  // Cells ------------------------------------------------------------------------------------------------------------

  cell(row, column) {
    return {row, column, receiver: this.scene.order[row], source: this.scene.order[column]};
  }

  /** What lies at a point: {row, column} of a cell, or one of them for a name, or nothing. */
  at(x, y) {
    const {left, top, scale} = this.view;
    const {size} = this.scene.matrix;
    const [column, row] = [Math.floor(this.view.x + (x - left) / scale), Math.floor(this.view.y + (y - top) / scale)];
    const inside = (index) => index >= 0 && index < size;
    if (x >= left && y >= top) return inside(row) && inside(column) ? this.cell(row, column) : null;
    if (x < left && y >= top && inside(row)) return {row};
    if (y < top && x >= left && inside(column)) return {column};
    return null;
  }

  /** Put the cursor on a pair of places and bring it into view. */
  move(row, column) {
    const {size} = this.scene.matrix;
    this.cursor = {row: Math.max(0, Math.min(size - 1, row)), column: Math.max(0, Math.min(size - 1, column))};
    const {width, height, left, top, scale} = this.view;
    const [wide, high] = [(width - left) / scale, (height - top) / scale];
    if (this.cursor.column < this.view.x) this.view.x = this.cursor.column;
    if (this.cursor.column + 1 > this.view.x + wide) this.view.x = this.cursor.column + 1 - wide;
    if (this.cursor.row < this.view.y) this.view.y = this.cursor.row;
    if (this.cursor.row + 1 > this.view.y + high) this.view.y = this.cursor.row + 1 - high;
    this.place();
    this.tell.moved(this.cell(this.cursor.row, this.cursor.column));
  }

  /** Show the row of a task, large enough to read, with the cursor on its best partner. */
  jump(task, partner) {
    const [row, column] = [this.places[task], this.places[partner]];
    this.setScale(Math.max(this.view.scale, READABLE, this.fit()));
    this.view.x = column + 0.5 - (this.view.width - this.view.left) / this.view.scale / 2;
    this.view.y = row + 0.5 - (this.view.height - this.view.top) / this.view.scale / 2;
    this.place();
    this.move(row, column);
  }
}
