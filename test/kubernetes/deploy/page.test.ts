/** The commands of docs/kubernetes.md, as far as they can be run without a cluster that runs pods. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "@jest/globals";
import { parseAllDocuments } from "yaml";
import { packageRoot } from "../../../src/app/envoy.ts";
import { toolBinary } from "../tools.ts";
import { find, type Manifest, templateOf } from "./kustomize.ts";

const page = readFileSync(join(packageRoot, "docs/kubernetes.md"), "utf8");
const commands = [...page.matchAll(/```sh\n(.*?)```/gs)]
  .flatMap(([, block = ""]) => block.replaceAll(/\\\n\s*/g, "").split("\n"))
  .filter((line) => line !== "");

function run(program: string, args: readonly string[], cwd: string): string {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return stdout;
}

const manifestsOf = (text: string): readonly Manifest[] =>
  parseAllDocuments(text).map((document) => document.toJS() as Manifest);

describe("docs/kubernetes.md", () => {
  it("builds the overlay that it shows, from a folder beside the checkout", () => {
    const [, overlay = ""] = /```yaml\n(# kustomization\.yaml\n.*?)```/s.exec(page) ?? [];
    const scratch = mkdtempSync(join(tmpdir(), "signalbox-page-"));
    try {
      // kustomize follows no links out of a folder, so deploy is what is linked.
      mkdirSync(join(scratch, "signalbox"));
      symlinkSync(join(packageRoot, "deploy"), join(scratch, "signalbox/deploy"));
      mkdirSync(join(scratch, "overlay"));
      writeFileSync(join(scratch, "overlay/kustomization.yaml"), overlay);
      const manifests = manifestsOf(run(toolBinary("kustomize"), ["build", "."], join(scratch, "overlay")));
      const { spec } = templateOf(find(manifests, "Deployment", "signalbox-epp"));
      expect(spec.containers[0]).toMatchObject({
        image: "REGISTRY/signalbox:0.1.0",
        args: expect.arrayContaining(["--peer-service=signalbox-epp-peers"]),
      });
      expect(find(manifests, "InferencePool", "signalbox")).toMatchObject({
        metadata: { namespace: "models" },
        spec: { selector: { matchLabels: { app: "qwen" } } },
      });
      expect(find(manifests, "DestinationRule", "signalbox-epp").metadata.namespace).toBe("models");
      const binding = find(manifests, "ClusterRoleBinding", "signalbox-epp-metrics-auth");
      expect(binding["subjects"]).toEqual([{ kind: "ServiceAccount", name: "signalbox-epp", namespace: "models" }]);
    } finally {
      rmSync(scratch, { recursive: true });
    }
  });

  it("builds each folder of the checkout that it has people apply", () => {
    const folders = commands.flatMap((command) => /^kubectl apply -k (deploy\/\S+)$/.exec(command)?.[1] ?? []);
    expect(folders.length).toBeGreaterThanOrEqual(2);
    for (const folder of folders) {
      const manifests = manifestsOf(run(toolBinary("kustomize"), ["build", folder], packageRoot));
      expect(find(manifests, "Deployment", "signalbox-epp")).toBeDefined();
    }
  });

  it("installs a chart with values that it takes, to the pool of the release's name", () => {
    const [install = "", ...others] = commands.filter((command) => command.startsWith("helm install "));
    expect(others).toEqual([]);
    const [release = "", ...args] = install.split(" ").slice(2);
    const text = run(
      toolBinary("helm"),
      ["template", release, ...args.filter((arg) => arg !== "--create-namespace")],
      packageRoot,
    );
    const manifests = manifestsOf(text);
    expect(find(manifests, "InferencePool", "qwen")).toBeDefined();
    const { spec } = templateOf(find(manifests, "Deployment", "qwen-epp"));
    expect(spec.containers[0]?.image).toMatch(/^REGISTRY\/signalbox:/);
    expect(find(manifests, "HTTPRoute", "qwen")).toBeDefined();
  });
});
