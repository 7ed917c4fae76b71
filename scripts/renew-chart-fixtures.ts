/** Writes test/fixtures/charts/: what Helm renders of every case of test/kubernetes/charts/cases.ts. Look at the difference before committing it. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cases } from "../test/kubernetes/charts/cases.ts";
import { createHelm } from "../test/kubernetes/charts/helm.ts";

const folder = "test/fixtures/charts";
const helm = await createHelm();
try {
  mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(folder)) rmSync(join(folder, file));
  for (const one of cases) writeFileSync(join(folder, `${one.name}.yaml`), await helm.template(one));
  process.stdout.write(`${cases.length} renderings in ${folder}\n`);
} finally {
  await helm.close();
}
