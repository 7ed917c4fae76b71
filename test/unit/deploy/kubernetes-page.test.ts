/** docs/kubernetes.md: what it names is there. What it has people run is tried in test/kubernetes/deploy/page.test.ts. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "@jest/globals";
import { parseAllDocuments } from "yaml";
import { eppFlags } from "../../../src/commands/epp-flags.ts";
import { createFamilies } from "../../../src/telemetry/catalogue.ts";

const page = readFileSync("docs/kubernetes.md", "utf8");
const matches = (pattern: RegExp): readonly string[] => [...page.matchAll(pattern)].map(([, found = ""]) => found);

describe("docs/kubernetes.md", () => {
  it("links to files that are there", () => {
    const links = matches(/\]\(([^)#]+)(?:#[^)]*)?\)/g).filter((link) => !link.startsWith("https://"));
    expect(links.length).toBeGreaterThan(10);
    expect(links.filter((link) => !existsSync(join("docs", link)))).toEqual([]);
  });

  it("names paths of deploy/ and charts/ that are there", () => {
    const paths = matches(/\b((?:deploy|charts)\/[\w./-]*\w)/g);
    expect(paths.length).toBeGreaterThan(15);
    expect(paths.filter((path) => !existsSync(path))).toEqual([]);
  });

  it("names flags that the picker has", () => {
    const flags = matches(/`--([\w-]+)(?:=[^`]*)?`/g).filter((flag) => flag !== "wait");
    expect(flags.length).toBeGreaterThan(10);
    expect(flags.filter((flag) => !Object.hasOwn(eppFlags, flag))).toEqual([]);
  });

  it("names metrics that the picker shows", () => {
    const shown = Object.values(createFamilies()).flatMap(({ spec }) => spec.exposures.map(({ name }) => name));
    const named = matches(/\b(llm_d_epp_\w+)/g);
    expect(named.length).toBeGreaterThan(2);
    expect(named.filter((name) => !shown.includes(name))).toEqual([]);
  });

  it("lists every right of rbac.yaml", () => {
    const rights = page.slice(page.indexOf("## Rights"), page.indexOf("## Probes"));
    const roles = parseAllDocuments(readFileSync("deploy/kubernetes/rbac.yaml", "utf8"))
      .map((document) => document.toJS() as { readonly kind: string; readonly rules?: readonly Rule[] })
      .filter(({ kind }) => kind === "Role" || kind === "ClusterRole");
    const rules = roles.flatMap((role) => role.rules ?? []);
    expect(rules.length).toBeGreaterThan(8);
    for (const { resources = [], nonResourceURLs = [], verbs } of rules) {
      for (const name of [...resources, ...nonResourceURLs.filter((url) => url !== "/debug")]) {
        const rows = rights.split("\n").filter((line) => line.includes(name));
        expect({ name, found: rows.some((row) => row.includes(` ${verbs.join(", ")} `)) }).toEqual({
          name,
          found: true,
        });
      }
    }
  });
});

interface Rule {
  readonly resources?: readonly string[];
  readonly nonResourceURLs?: readonly string[];
  readonly verbs: readonly string[];
}
