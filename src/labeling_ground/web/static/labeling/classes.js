// The classes that objects are of. A function returns what it makes of the choices `{classes, classId}`, and changes nothing.

const COLOURS = ["#3ecf8e", "#ff7a59", "#4aa8ff", "#ffd23f", "#c77dff", "#ff5d8f", "#2fd6d6", "#a3d93d", "#ff9f1c"];

const LONGEST = 80; // letters of a name

/** The names in what was typed or pasted: with commas between them, or a line for each. */
export function namesIn(text) {
  return text.split(/[,\t\r\n]/).map((name) => name.trim().slice(0, LONGEST)).filter(Boolean);
}

/** The class of this name is the chosen one then: one more, in a colour that none of them has while there is such a one, unless it is there. */
export function added(classes, name) {
  const there = classes.find((one) => one.name === name);
  if (there) return { classes, classId: there.id };
  const id = String(1 + Math.max(0, ...classes.map((one) => Number(one.id))));
  const colour = COLOURS.find((value) => !classes.some((one) => one.colour === value)) ?? COLOURS[classes.length % COLOURS.length];
  return { classes: [...classes, { id, name, colour }], classId: id };
}

/** All classes but one; the first is chosen where that one was. */
export function without({ classes, classId }, id) {
  const left = classes.filter((one) => one.id !== id);
  return { classes: left, classId: classId === id ? left[0].id : classId };
}

/** The classes with one of them changed. */
export function changed({ classes }, id, change) {
  return { classes: classes.map((one) => (one.id === id ? { ...one, ...change } : one)) };
}
