/** A name for each image that is safe in an archive and different from the others': without folder and ending. */
export function fileNames(images) {
  const taken = new Set();
  return images.map(({ name }) => {
    const bare = name.replace(/\.[^.]*$/, "");
    const safe = bare.replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_").replace(/^\.+/, "_") || "image";
    let unique = safe;
    for (let n = 2; taken.has(unique.toLowerCase()); n++) unique = `${safe}-${n}`;
    taken.add(unique.toLowerCase());
    return unique;
  });
}
