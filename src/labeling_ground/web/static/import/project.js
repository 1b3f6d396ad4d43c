// Our own project file: see docs/decisions/0040-project-file.md.

import { FORMAT, VERSION } from "../export/project.js";
import { jsonOf } from "./parts.js";
import { t } from "../shared/words.js";

export const isProject = (files) => files.some(({ path }) => path === "project.json");

/** Everything as it was, by the images' ids: classes, labels, states, where each photograph lies. Throws where a newer page wrote it. */
export async function fromProject(files) {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const { format, version, classes, images } = await jsonOf(byPath.get("project.json"));
  if (format !== FORMAT) throw new Error(t("notProject"));
  if (version > VERSION) throw new Error(t("projectNewer", { version, own: VERSION }));
  const names = new Map(classes.map(({ id, name }) => [id, name]));
  const read = await Promise.all(images.map(async ({ labels, ...image }) => {
    const file = byPath.get(labels);
    if (!file) throw new Error(t("labelsMissing", { labels }));
    const { objects } = await jsonOf(file);
    return { ...image, objects: objects.map(({ classId, ...object }) => ({ ...object, class: names.get(classId) ?? "?" })), unread: 0 };
  }));
  return { classes: classes.map(({ id, ...one }) => one), images: read };
}
