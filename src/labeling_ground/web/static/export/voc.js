// Pascal VOC: boxes in XML, classes and objects as PNGs with VOC's palette, lists of what trains and what validates.

import { cutOut } from "../shared/rle.js";
import { layered, vocColour } from "./layers.js";
import { fileNames, photoEnding } from "./names.js";
import { byPart, className, classNumber, xml } from "./parts.js";
import { palettePng } from "./png.js";
import { t } from "../shared/words.js";

const VOID = 255; // in VOC a pixel of this value counts for nothing
const PALETTE = Array.from({ length: 256 }, (_, value) => vocColour(value));

/** The data set as files. Throws an `Error` where there are more classes, or objects in one image, than the palette has places. */
export async function toVoc({ images, classes }, { images: copied = false } = {}, progress = () => {}) {
  const names = fileNames(images), stems = new Map(images.map((image, i) => [image, names[i]]));
  const files = { "labels.txt": ["background", ...classes.map(({ name }) => name)].map((name) => `${name}\n`).join("") };
  const most = Math.max(classes.length, ...images.map(({ objects }) => objects.length));
  if (most >= VOID) throw new Error(t("vocFull", { most: VOID - 1, n: most }));
  for (const [i, image] of images.entries()) {
    const { width, height } = image;
    const file = `${names[i]}${photoEnding(image, copied)}`;
    files[`Annotations/${names[i]}.xml`] = annotation(image, file, classes);
    if (image.objects.length) {
      files[`SegmentationClass/${names[i]}.png`] = await palettePng(layered(image, (one) => classNumber(classes, one) + 1), width, height, PALETTE);
      files[`SegmentationObject/${names[i]}.png`] = await palettePng(layered(image, (_, n) => n + 1), width, height, PALETTE);
    }
    if (copied) files[`JPEGImages/${file}`] = image.file;
    progress(i + 1, images.length);
  }
  for (const [part, some] of byPart(images)) list(files, part || "train", some, stems);
  list(files, "trainval", images, stems);
  return files;
}

function list(files, name, images, stems) {
  const lines = (some) => some.map((image) => `${stems.get(image)}\n`).join("");
  files[`ImageSets/Main/${name}.txt`] = lines(images);
  files[`ImageSets/Segmentation/${name}.txt`] = lines(images.filter(({ objects }) => objects.length));
}

function annotation({ width, height, objects }, file, classes) {
  return `<annotation>
  <folder>JPEGImages</folder>
  <filename>${xml(file)}</filename>
  <source><database>Labeling Ground</database></source>
  <size><width>${width}</width><height>${height}</height><depth>3</depth></size>
  <segmented>${objects.length ? 1 : 0}</segmented>
${objects.map((object) => boxed(object, classes)).join("")}</annotation>
`;
}

/** An object's box: VOC counts pixels from 1, and the last one belongs to it. */
function boxed(object, classes) {
  const { x, y, width, height } = cutOut(object.rle);
  const source = object.model ? `<source><model>${xml(object.model)}</model><version>${xml(object.version ?? "")}</version></source>` : "";
  return `  <object>
    <name>${xml(className(classes, object))}</name>
    <pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
    <bndbox><xmin>${x + 1}</xmin><ymin>${y + 1}</ymin><xmax>${x + width}</xmax><ymax>${y + height}</ymax></bndbox>${source}
  </object>
`;
}
