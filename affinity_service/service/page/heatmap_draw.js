// Paints the heatmap: an image of one pixel per pair, scaled, and above it what only fits when cells are large.

import {colourOf, inkOn} from "./colours.js";
import {isSure} from "./matrix.js";
import {decimalsFor, number, short, signed} from "./numbers.js";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
// Pixels per cell from which on there is room for a mark of uncertainty, a name, and a number.
const MARKS = 9;
const NAMES = 10;
const NUMBERS = 44;
// One name may stand for so many rows; where it had to stand for more there are numbers of groups instead.
const SKIP = 4;

export const showsNames = (scale) => Math.ceil(NAMES / scale) <= SKIP;

/** The matrix in its order, one pixel per pair. */
export function paintPixels(matrix, order, colours) {
  const {size, values, limit} = matrix;
  const canvas = new OffscreenCanvas(size, size);
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  for (let row = 0, at = 0; row < size; row++) {
    for (let column = 0; column < size; column++, at += 4) {
      const cell = order[row] * size + order[column];
      const colour = row === column ? colours.diagonal : colourOf(colours, values[cell], limit, isSure(matrix, cell));
      image.data[at] = colour[0];
      image.data[at + 1] = colour[1];
      image.data[at + 2] = colour[2];
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Draw one frame.
 *
 * @param view {width, height, left, top, x, y, scale}: the canvas in CSS pixels, its margins for names, the cell at the
 *   margins' corner and the pixels per cell.
 * @param scene {matrix, order, starts, groups, pixels, colours, picked, cursor}
 */
export function draw(context, ratio, view, scene) {
  const {width, height, left, top, x, y, scale} = view;
  const {size} = scene.matrix;
  const [wide, high] = [Math.min(width - left, (size - x) * scale), Math.min(height - top, (size - y) * scale)];
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.save();
  context.beginPath();
  context.rect(left, top, wide, high);
  context.clip();
  context.imageSmoothingEnabled = scale * ratio < 2;
  context.drawImage(scene.pixels, left - x * scale, top - y * scale, size * scale, size * scale);
  const rows = [Math.max(0, Math.floor(y)), Math.min(size, Math.ceil(y + (height - top) / scale))];
  const columns = [Math.max(0, Math.floor(x)), Math.min(size, Math.ceil(x + (width - left) / scale))];
  if (scale >= MARKS) drawCells(context, view, scene, rows, columns);
  drawBorders(context, view, scene);
  drawCursor(context, view, scene);
  context.restore();
  drawNames(context, view, scene, rows, false);
  drawNames(context, view, scene, columns, true);
}

function drawCells(context, {left, top, x, y, scale}, {matrix, order, colours}, rows, columns) {
  const {size, values, limit} = matrix;
  const withNumbers = scale >= NUMBERS;
  const decimals = decimalsFor([limit], 2);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.strokeStyle = colours.card;
  context.lineWidth = 0.5;
  const dots = new Path2D();
  for (let row = rows[0]; row < rows[1]; row++) {
    for (let column = columns[0]; column < columns[1]; column++) {
      if (row === column) continue;
      const cell = order[row] * size + order[column];
      const sure = isSure(matrix, cell);
      const [middleX, middleY] = [left + (column + 0.5 - x) * scale, top + (row + 0.5 - y) * scale];
      if (withNumbers) {
        const text = signed(values[cell], decimals);
        context.font = `${sure ? 600 : 400} ${Math.min(13, (scale - 5) / (0.62 * (decimals + 3)))}px ${FONT}`;
        context.fillStyle = sure ? inkOn(colourOf(colours, values[cell], limit)) : colours.quiet;
        context.fillText(text, middleX, middleY);
      } else if (!sure) {
        const radius = Math.min(2, scale / 10);
        dots.moveTo(middleX + radius, middleY);
        dots.arc(middleX, middleY, radius, 0, 2 * Math.PI);
      }
    }
  }
  context.globalAlpha = 0.55;
  context.fillStyle = colours.mark;
  context.fill(dots);
  context.globalAlpha = 1;
}

function drawBorders(context, {left, top, x, y, scale}, {matrix, starts, groups, colours}) {
  const {size} = matrix;
  context.strokeStyle = colours.border;
  for (let group = 0; group < starts.length; group++) {
    const [start, end] = [starts[group], starts[group + 1] ?? size];
    if (start > 0) {
      context.lineWidth = 0.5;
      context.beginPath();
      context.moveTo(left + (start - x) * scale, top - y * scale);
      context.lineTo(left + (start - x) * scale, top + (size - y) * scale);
      context.moveTo(left - x * scale, top + (start - y) * scale);
      context.lineTo(left + (size - x) * scale, top + (start - y) * scale);
      context.stroke();
    }
    if (group >= groups || groups < 2) continue;
    context.lineWidth = 1.75;
    context.strokeRect(
      left + (start - x) * scale,
      top + (start - y) * scale,
      (end - start) * scale,
      (end - start) * scale,
    );
  }
}

function drawCursor(context, {left, top, x, y, scale, width, height}, {cursor, colours}) {
  if (!cursor) return;
  const [atX, atY] = [left + (cursor.column - x) * scale, top + (cursor.row - y) * scale];
  context.strokeStyle = colours.ink;
  context.globalAlpha = 0.35;
  context.lineWidth = 1;
  context.strokeRect(left, atY, width - left, scale);
  context.strokeRect(atX, top, scale, height - top);
  context.globalAlpha = 1;
  // Two lines, so that one of them stands out on any colour.
  context.lineWidth = 4;
  context.strokeStyle = colours.card;
  context.strokeRect(atX - 1, atY - 1, scale + 2, scale + 2);
  context.lineWidth = 2;
  context.strokeStyle = colours.accent;
  context.strokeRect(atX - 1, atY - 1, scale + 2, scale + 2);
}

/** Names along one side where they have room, else the numbers of the groups. */
function drawNames(context, view, scene, [first, last], above) {
  const {left, top, x, y, scale, width, height} = view;
  const {matrix, order, picked, cursor, colours} = scene;
  const [margin, from, length] = above ? [top, x, width - left] : [left, y, height - top];
  const every = Math.max(1, Math.ceil(NAMES / scale));
  const pointed = cursor && (above ? cursor.column : cursor.row);
  context.save();
  // Along the top the page is turned by a quarter: names run upwards from the map.
  if (above) {
    context.translate(left, top);
    context.rotate(-Math.PI / 2);
  } else context.translate(left, top);
  context.textBaseline = "middle";
  const write = (index, text, align = "right") => {
    const along = (index + 0.5 - from) * scale;
    if (along < 0 || along > length) return;
    context.textAlign = above ? "left" : align;
    context.fillText(text, above ? 6 : -6, along);
  };
  const size = Math.max(9, Math.min(13, scale * 0.8));
  const fits = Math.floor((margin - 12) / (size * 0.54));
  for (let index = first; index < last; index++) {
    const task = matrix.tasks[order[index]];
    const marked = picked.has(task) || index === pointed;
    if (!marked && (!showsNames(scale) || index % every)) continue;
    // A marked name between others that touch would not be read: its neighbours make room.
    if (!marked && scale < NAMES && pointed !== null && Math.abs(index - pointed) < every) continue;
    context.font = `${marked ? 700 : 400} ${marked ? Math.max(11, size) : size}px ${FONT}`;
    context.fillStyle = marked ? colours.accent : colours.ink;
    write(
      index,
      (picked.has(task) ? "✓ " : "") + short(task, marked ? Math.min(fits, Math.floor((margin - 12) / 6.4)) : fits),
    );
  }
  if (!showsNames(scale)) drawGroupNumbers(context, view, scene, above, from, length);
  context.restore();
}

function drawGroupNumbers(context, {scale}, {matrix, starts, groups, colours}, above, from, length) {
  context.font = `600 12px ${FONT}`;
  context.fillStyle = colours.quiet;
  let free = -Infinity;
  for (let group = 0; group < groups; group++) {
    const [start, end] = [starts[group], starts[group + 1] ?? matrix.size];
    const [low, high] = [Math.max(0, (start - from) * scale), Math.min(length, (end - from) * scale)];
    const middle = (low + high) / 2;
    if (high - low < 4 || middle - free < 13) continue;
    free = middle;
    context.textAlign = above ? "left" : "right";
    context.fillText(`group ${number(group + 1, 0)}`, above ? 6 : -6, middle);
  }
}
