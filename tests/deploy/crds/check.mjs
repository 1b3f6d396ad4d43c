// `node check.mjs FOLDER < documents.json`: validate what is of the operators' kinds, by the validators in FOLDER.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const KINDS = {
  ScaledObject: "keda/keda.sh/v1alpha1/ScaledObject.js",
  ServiceMonitor: "prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.js",
  PrometheusRule: "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule.js",
};
for (const document of JSON.parse(readFileSync(0, "utf8"))) {
  const module = await import(pathToFileURL(`${process.argv[2]}/@kubernetes-models/${KINDS[document.kind]}`));
  try {
    new module[document.kind](document).validate();
    console.log(`${document.kind} ok`);
  } catch (error) {
    console.log(`${document.kind} ${error.message}`);
  }
}
