// Reads the golden vectors with nothing but Node: node read_vectors.js [FOLDER]
//
// Checks every file against the manifest, then computes series_coefficients and compares. An example to copy from: put
// your own functions into `calls`. JSON.parse reads each number as the binary64 number that is meant.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

// The coefficients of 1/(sqrt(1 - z) + d): one power series divided by another.
function seriesCoefficients({ terms, damping }) {
  const below = [1];
  for (let k = 1; k < terms; k++) below.push((below[k - 1] * (2 * k - 3)) / (2 * k));
  below[0] += damping;
  const found = [];
  for (let k = 0; k < terms; k++) {
    let rest = k === 0 ? 1 : 0;
    for (let j = 1; j <= k; j++) rest -= below[j] * found[k - j];
    found.push(rest / below[0]);
  }
  return found;
}

const calls = { series_coefficients: seriesCoefficients };

// All numbers of nested arrays; null is NaN.
const flat = (value) => (Array.isArray(value) ? value.flatMap(flat) : [value === null ? NaN : value]);

// Largest absolute difference over the largest expected magnitude; the largest over named answers.
function relativeError(found, expected) {
  if (expected !== null && typeof expected === "object" && !Array.isArray(expected)) {
    return Math.max(...Object.keys(expected).map((name) => relativeError(found[name], expected[name])));
  }
  const a = flat(found);
  const b = flat(expected);
  if (a.length !== b.length || a.some((x, i) => Number.isNaN(x) !== Number.isNaN(b[i]))) return Infinity;
  const scale = Math.max(0, ...b.filter((y) => !Number.isNaN(y)).map(Math.abs)) || 1;
  return Math.max(0, ...a.map((x, i) => (Number.isNaN(b[i]) ? 0 : Math.abs(x - b[i])))) / scale;
}

function readCases(folder) {
  const manifest = JSON.parse(fs.readFileSync(path.join(folder, "manifest.json"), "utf8"));
  return manifest.files.flatMap((entry) => {
    const data = fs.readFileSync(path.join(folder, entry.name));
    const hash = crypto.createHash("sha256").update(data).digest("hex");
    if (hash !== entry.sha256) throw new Error(`${entry.name} has another SHA-256 than the manifest says`);
    return JSON.parse(data.toString("utf8")).cases;
  });
}

function main(folder) {
  const everything = readCases(folder);
  const chosen = everything.filter((one) => one.call in calls);
  let missed = 0;
  for (const one of chosen) {
    const error = relativeError(calls[one.call](one.inputs), one.expected);
    const right = error <= one.rtol;
    missed += right ? 0 : 1;
    const verdict = right ? "right" : "wrong";
    console.log(`${verdict}  ${one.id.padEnd(32)} error ${error.toExponential(1)}, allowed ${one.rtol}`);
  }
  console.log(`${everything.length} cases read, ${chosen.length} computed, ${missed} wrong`);
  return missed === 0 ? 0 : 1;
}

try {
  process.exitCode = main(process.argv[2] || __dirname);
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
