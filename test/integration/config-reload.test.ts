/** The running configuration follows its file in every way a file can change, and never leaves the last good one. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { Configuration } from "../../src/app/configuration.ts";
import { createPluginRegistry } from "../../src/app/plugins.ts";
import type { PluginRegistry } from "../../src/config/complete-config.ts";
import type { Loaded } from "../../src/config/instantiate.ts";
import { createEndpointStore } from "../../src/data/endpoint-store.ts";
import type { PluginDefinition } from "../../src/scheduling/contracts.ts";
import { type Logger, silentLogger } from "../../src/telemetry/log.ts";
import fc from "../properties.ts";
import { eventually } from "../stack.ts";

const builtIn = createPluginRegistry();
const folders: string[] = [];
const running: Configuration[] = [];

interface Probe {
  readonly mark: string;
  isClosed: boolean;
}

/** A scorer that tells when it is closed. */
function probes() {
  const made: Probe[] = [];
  const definition: PluginDefinition<{ mark: string }> = {
    type: "probe",
    kinds: ["scorer"],
    summary: "",
    parameters: { type: "object", properties: { mark: { type: "string", default: "" } } },
    create({ mark }) {
      if (mark === "refuses") throw new Error("no such mark");
      const probe: Probe = { mark, isClosed: false };
      made.push(probe);
      return {
        probe,
        score: () => {},
        close: async () => {
          probe.isClosed = true;
          if (mark === "sticks") throw new Error("cannot close");
        },
      };
    },
  };
  const registry: PluginRegistry = { ...builtIn, get: (type) => (type === "probe" ? definition : builtIn.get(type)) };
  return { made, registry };
}

interface Fixture {
  readonly file: string;
  readonly made: readonly Probe[];
  readonly configuration: Configuration;
  readonly outcomes: string[];
  readonly logged: string[];
  /** Waits for the n-th outcome. */
  readonly outcome: (count: number) => Promise<readonly string[]>;
}

async function start(text: string, prepare = (path: string) => writeFileSync(path, text)): Promise<Fixture> {
  const folder = mkdtempSync(join(tmpdir(), "signalbox-reload-"));
  folders.push(folder);
  const file = join(folder, "config.yaml");
  prepare(file);
  const { made, registry } = probes();
  const outcomes: string[] = [];
  const logged: string[] = [];
  const log: Logger = {
    ...silentLogger,
    error: (fields, message) => logged.push(`${message} ${JSON.stringify(fields["faults"] ?? "")}`),
  };
  const store = createEndpointStore(silentLogger);
  const configuration = await Configuration.start({
    file,
    text: undefined,
    registry,
    contextFor: (name, plugin) => ({ name, log, endpoints: store, plugin, now: () => 0, random: () => 0 }),
    log,
    onReload: (outcome) => outcomes.push(outcome),
    watch: { settleMs: 10, pollMs: 40 },
  });
  running.push(configuration);
  return {
    file,
    made,
    configuration,
    outcomes,
    logged,
    outcome: (count) => eventually(`outcome ${count}`, async () => (outcomes.length >= count ? outcomes : undefined)),
  };
}

afterEach(async () => {
  for (const configuration of running.splice(0)) await configuration.close();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

function config(mark: string, weight = 1, extra = ""): string {
  return `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - {type: probe, parameters: {mark: ${mark}}}
  - {type: prefix-cache-scorer}
schedulingProfiles: [{name: default, plugins: [{pluginRef: probe, weight: ${weight}}, {pluginRef: prefix-cache-scorer}]}]
${extra}`;
}

function weightOf({ plan }: Pick<Loaded, "plan">): number | undefined {
  return plan.profiles.get("default")?.scorers[0]?.weight;
}

describe("an edit of the file is followed when it is", () => {
  it.each<readonly [string, (file: string, text: string) => void]>([
    ["written in place", (file, text) => writeFileSync(file, text)],
    [
      "renamed over it",
      (file, text) => {
        writeFileSync(`${file}.new`, text);
        renameSync(`${file}.new`, file);
      },
    ],
    [
      "deleted and created",
      (file, text) => {
        unlinkSync(file);
        writeFileSync(file, text);
      },
    ],
  ])("%s", async (_how, edit) => {
    const fixture = await start(config("a", 1));
    edit(fixture.file, config("a", 7));
    await eventually("the new weight", async () => weightOf(fixture.configuration) === 7);
    expect(fixture.outcomes.filter((outcome) => outcome === "applied")).toHaveLength(1);
  });

  it("a ConfigMap volume's symlink, swapped", async () => {
    const revision = (file: string, name: string, text: string) => {
      mkdirSync(join(dirname(file), name));
      writeFileSync(join(dirname(file), name, "config.yaml"), text);
    };
    const fixture = await start("", (file) => {
      revision(file, "..2026_01", config("a", 1));
      symlinkSync("..2026_01", join(dirname(file), "..data"));
      symlinkSync("..data/config.yaml", file);
    });
    revision(fixture.file, "..2026_02", config("a", 7));
    symlinkSync("..2026_02", join(dirname(fixture.file), "..data_tmp"));
    renameSync(join(dirname(fixture.file), "..data_tmp"), join(dirname(fixture.file), "..data"));
    rmSync(join(dirname(fixture.file), "..2026_01"), { recursive: true });
    expect(await fixture.outcome(1)).toEqual(["applied"]);
    expect(weightOf(fixture.configuration)).toBe(7);
  });
});

describe("the last good configuration stays, and the reason is kept, when the file is", () => {
  it.each<readonly [string, (file: string) => void, RegExp]>([
    ["no YAML", (file) => writeFileSync(file, "a: [1"), /^line \d+, column \d+: /],
    ["half written", (file) => writeFileSync(file, config("b", 7).slice(0, 60)), /missing|line \d+/],
    ["truncated", (file) => writeFileSync(file, ""), /^the file is empty$/],
    ["gone", (file) => unlinkSync(file), /^cannot be read: there is no such file$/],
    ["not text", (file) => writeFileSync(file, Buffer.from([0xff, 0xfe, 0x80])), /^is not UTF-8 text$/],
    ["huge", (file) => writeFileSync(file, "#".repeat(2 ** 20 + 1)), /larger than 1048576 bytes$/],
    ["invalid", (file) => writeFileSync(file, config("b", 1, "nonsense: 1")), /^nonsense: unknown key/],
    [
      "refused by a plugin",
      (file) => writeFileSync(file, config("refuses")),
      /^plugin probe: cannot be created: no such mark$/,
    ],
    [
      "another source of endpoints",
      (file) =>
        writeFileSync(
          file,
          config("a", 1, "dataLayer: {discovery: {pluginRef: d}}").replace(
            "plugins:\n",
            "plugins:\n  - {type: file-discovery, name: d, parameters: {path: /x}}\n",
          ),
        ),
      /^dataLayer\.discovery: where endpoints come from cannot change while the picker runs; restart it$/,
    ],
  ])("%s", async (_what, edit, reason) => {
    const fixture = await start(config("a", 3));
    const { plan } = fixture.configuration;
    edit(fixture.file);
    expect(await fixture.outcome(1)).toEqual(["rejected"]);
    expect(fixture.configuration.plan).toBe(plan);
    expect(fixture.configuration.state.faults).toEqual([expect.stringMatching(reason)]);
    expect(fixture.logged).toHaveLength(1);
    expect(fixture.made.filter(({ isClosed }) => isClosed)).toEqual([]);
    writeFileSync(fixture.file, config("a", 4));
    await eventually("the good edit after it", async () => weightOf(fixture.configuration) === 4);
    expect(fixture.configuration.state.faults).toEqual([]);
  });
});

describe("on a swap", () => {
  it("a plugin whose parameters did not change keeps its instance, a producer's index included", async () => {
    const { file, configuration, made, outcome } = await start(config("a", 1));
    const index = configuration.lookup("approx-prefix-cache-producer");
    writeFileSync(file, config("a", 9));
    await outcome(1);
    expect(made).toHaveLength(1);
    expect(configuration.lookup("approx-prefix-cache-producer")).toBe(index);
    expect(index).toBeDefined();
    writeFileSync(file, config("b", 9));
    await outcome(2);
    expect(made.map(({ mark }) => mark)).toEqual(["a", "b"]);
    expect(configuration.lookup("approx-prefix-cache-producer")).toBe(index);
  });

  it("a replaced instance is closed only when every plan that holds it is drained, and the next reload does not wait for that", async () => {
    const { file, configuration, made, outcome } = await start(config("a", 1));
    const drains = new Map<unknown, () => void>();
    configuration.onSwap((_loaded, previous) => new Promise((resolve) => drains.set(previous.plan, resolve)));
    const first = configuration.plan;
    writeFileSync(file, config("a", 2));
    await outcome(1);
    const second = configuration.plan;
    writeFileSync(file, config("b", 2));
    await outcome(2);
    drains.get(second)?.();
    await new Promise((resolve) => setImmediate(resolve));
    expect(made.map(({ isClosed }) => isClosed)).toEqual([false, false]);
    drains.get(first)?.();
    await eventually("the old instance is closed", async () => made[0]?.isClosed);
    expect(made[1]?.isClosed).toBe(false);
  });

  it("a listener or a plugin that fails is logged, and everything else goes on", async () => {
    const { file, configuration, made, outcome, logged } = await start(config("sticks", 1));
    configuration.onSwap(() => {
      throw new Error("the scraper is gone");
    });
    writeFileSync(file, config("b"));
    await outcome(1);
    await eventually("the old instance was closed", async () => made[0]?.isClosed);
    await eventually("both were logged", async () => logged.length === 2);
    expect(logged.map((line) => line.trim())).toEqual([
      'a part of the picker failed to follow the configuration ""',
      'a plugin failed to close ""',
    ]);
    expect(configuration.current.instances.has("probe")).toBe(true);
  });

  it("a storm of edits costs few reloads, and the last one wins", async () => {
    const fixture = await start(config("a", 1));
    for (let weight = 2; weight <= 60; weight++) writeFileSync(fixture.file, config("a", weight));
    await eventually("the last weight", async () => weightOf(fixture.configuration) === 60);
    expect(fixture.outcomes.length).toBeLessThan(10);
    expect(fixture.outcomes).not.toContain("rejected");
  });

  it("a file that is only touched replaces nothing", async () => {
    const fixture = await start(config("a", 1));
    const { plan } = fixture.configuration;
    writeFileSync(fixture.file, config("a", 1));
    writeFileSync(`${fixture.file}.other`, "x");
    writeFileSync(fixture.file, config("a", 1));
    // Nothing happens, so there is nothing to wait for but a few looks at the file.
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(fixture.outcomes).toEqual([]);
    expect(fixture.configuration.plan).toBe(plan);
  });
});

it("the running plan is the last good one after any sequence of edits, and nothing stays open at the end", async () => {
  const edit = fc.oneof(
    fc.record({
      kind: fc.constant("good" as const),
      mark: fc.constantFrom("a", "b", "c"),
      weight: fc.integer({ min: 1, max: 99 }),
    }),
    fc.record({
      kind: fc.constant("bad" as const),
      text: fc.constantFrom("{", "", config("refuses"), config("b", 1, "x: 1")),
    }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 6 }), async (edits) => {
      const fixture = await start(config("start", 100));
      let expected = { mark: "start", weight: 100 };
      let text = config("start", 100);
      let count = 0;
      for (const next of edits) {
        const written = next.kind === "good" ? config(next.mark, next.weight) : next.text;
        if (written === text) continue;
        text = written;
        writeFileSync(fixture.file, written);
        await fixture.outcome(++count);
        if (next.kind === "good") expected = { mark: next.mark, weight: next.weight };
        const { plugin } = fixture.configuration.current.instances.get("probe") ?? {};
        expect((plugin as { probe: Probe }).probe).toEqual({ mark: expected.mark, isClosed: false });
        expect(weightOf(fixture.configuration)).toBe(expected.weight);
        expect(fixture.outcomes.at(-1)).toBe(next.kind === "good" ? "applied" : "rejected");
      }
      await fixture.configuration.close();
      expect(fixture.made.every(({ isClosed }) => isClosed)).toBe(true);
    }),
    { numRuns: 12 },
  );
}, 30_000);
