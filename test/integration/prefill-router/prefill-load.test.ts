/** The prefill-load model from its settings to the choice: tables from files and from the package's script, which asks a stand-in for AISimulate. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "@jest/globals";
import { readFleetSettings } from "../../../src/prefill-router/fleet/fleet-settings.ts";
import { type Leg, type OpenRouter, openPrefillRouter, workerOf } from "../../../src/prefill-router/library.ts";
import type { Environment } from "../../../src/prefill-router/settings/environment.ts";
import fc from "../../properties.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-prefill-load-"));
const standIns = join(import.meta.dirname, "../../fixtures/aisimulate");
const python = { PATH: process.env["PATH"], PYTHONDONTWRITEBYTECODE: "1" };
const withStandIn = { ...python, PYTHONPATH: join(standIns, "current") };
const withOlder = { ...python, PYTHONPATH: join(standIns, "older") };
const described = { DYN_AIS_BACKEND: "vllm", DYN_AIS_SYSTEM: "h200_sxm", DYN_AIS_MODEL_PATH: "m" };
const whole = { backend: "vllm", system: "h200_sxm", model: "m", worker_type: "prefill" };
const ais = { DYN_ROUTER_PREFILL_LOAD_MODEL: "ais" };

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

/** A millisecond a token. */
const linear = file(
  "linear.json",
  JSON.stringify({
    format: "signalbox-prefill-load-table",
    version: 1,
    tokens: [1, 100_000],
    prefixTokens: [0],
    milliseconds: [[1], [100_000]],
  }),
);

/** The stand-in's law. */
function lawMs(tokens: number, prefix: number): number {
  return 20 + (tokens > 1024 ? 10 : 0) + 0.1 * tokens + 0.001 * prefix;
}

describe("the prefill-load model", () => {
  it("asks AISimulate at start where Dynamo's variables describe a model, and predicts what it says", () => {
    const { settings, faults } = readFleetSettings({ ...withStandIn, ...described, ...ais }, {});
    expect(faults).toEqual([]);
    const table = settings.prefillLoad;
    expect(table?.state()).toMatchObject({
      estimator: "aisimulate_core of unknown version",
      maxTokens: 1_048_576,
      maxPrefixTokens: 1_048_576,
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_048_576 }), fc.nat(1_048_576), (tokens, prefix) => {
        const exact = lawMs(tokens, prefix);
        expect(Math.abs((table?.predictMs(tokens, prefix) ?? 0) - exact)).toBeLessThan(0.006 * exact);
      }),
    );
    // On both sides of the leap.
    expect([table?.predictMs(1024, 0), table?.predictMs(1025, 0)]).toEqual([lawMs(1024, 0), lawMs(1025, 0)]);
    // The same again asks nobody: there is no such interpreter.
    const again = readFleetSettings({ ...described, ...ais, PATH: "" }, {});
    expect([again.faults, again.settings.prefillLoad]).toEqual([[], table]);
  }, 60_000);

  it("asks AIConfigurator, as AISimulate was called, in its own words", () => {
    const environment = { ...withOlder, ...described, ...ais, DYN_AIS_TP_SIZE: "4", DYN_AIS_MODEL_PATH: "older" };
    const { settings, faults } = readFleetSettings(environment, {});
    expect(faults).toEqual([]);
    expect(settings.prefillLoad?.estimator).toBe("aiconfigurator_core of unknown version");
    expect(settings.prefillLoad?.predictMs(1000, 64)).toBe(4000);
  });

  it.each<[string, Environment, string | RegExp]>([
    [
      "nothing says what to ask",
      ais,
      "routerPrefillLoadModel ais requires routerPrefillLoadTable, or DYN_AIS_PERF_CONFIG or DYN_AIS_* that describe the model",
    ],
    ["a field is missing", { ...ais, DYN_AIS_BACKEND: "vllm" }, "DYN_AIS_* must say system, model"],
    [
      "an old name is in use",
      { ...ais, ...described, DYN_AIC_TP_SIZE: "2" },
      "DYN_AIC_TP_SIZE are read no more: their names begin with DYN_AIS_",
    ],
    [
      "the model is off and yet described",
      { DYN_AIS_PERF_CONFIG: "{}" },
      "DYN_AIS_PERF_CONFIG requires routerPrefillLoadModel ais",
    ],
    [
      "the model is off and yet has a table",
      { SIGNALBOX_PREFILL_LOAD_TABLE: linear },
      "routerPrefillLoadTable requires routerPrefillLoadModel ais",
    ],
    [
      "there is no such interpreter",
      { ...ais, ...described, SIGNALBOX_PREFILL_LOAD_PYTHON: "no-such-python" },
      /^routerPrefillLoadModel ais: no-such-python cannot be run \(.*ENOENT.*\); a table made elsewhere may be given as routerPrefillLoadTable$/,
    ],
    [
      "only AISimulate would know what is asked",
      { ...withOlder, ...ais, DYN_AIS_PERF_CONFIG: JSON.stringify({ ...whole, speculation: { kind: "ngram" } }) },
      "routerPrefillLoadModel ais: prefill-load-table: aiconfigurator_core does not know speculation; a table made elsewhere may be given as routerPrefillLoadTable",
    ],
    [
      "AISimulate is not installed",
      { ...python, ...ais, ...described, DYN_AIS_MODEL_PATH: "another" },
      "routerPrefillLoadModel ais: prefill-load-table: neither aisimulate_core nor aiconfigurator_core is installed here; a table made elsewhere may be given as routerPrefillLoadTable",
    ],
    [
      "AISimulate has no estimate",
      { ...withStandIn, ...ais, ...described, DYN_AIS_MODEL_PATH: "unknown" },
      "routerPrefillLoadModel ais: prefill-load-table: aisimulate_core has no estimate for this configuration: it would have to observe a running engine first; a table made elsewhere may be given as routerPrefillLoadTable",
    ],
    [
      "the interpreter dies",
      { ...ais, ...described, SIGNALBOX_PREFILL_LOAD_PYTHON: "false", PATH: process.env["PATH"] },
      "routerPrefillLoadModel ais: the estimator ended with status 1; a table made elsewhere may be given as routerPrefillLoadTable",
    ],
    [
      "the table is not there",
      { ...ais, SIGNALBOX_PREFILL_LOAD_TABLE: join(scratch, "nowhere") },
      /^routerPrefillLoadTable: .*nowhere cannot be read: .*ENOENT/,
    ],
    [
      "the table is no table",
      { ...ais, SIGNALBOX_PREFILL_LOAD_TABLE: file("empty.json", "{}") },
      /^routerPrefillLoadTable: .*empty.json is not of format signalbox-prefill-load-table, version 1$/,
    ],
  ])("is refused where %s", (_name, environment, fault) => {
    const { faults } = readFleetSettings(environment, {});
    expect(faults).toEqual([typeof fault === "string" ? fault : (expect.stringMatching(fault) as unknown)]);
  });

  it("may be asked for by the policy file, and looks at what waits ten times a second", () => {
    const policy = file("policy.yaml", "router:\n  router_prefill_load_model: aic\n");
    const read = readFleetSettings({ SIGNALBOX_PREFILL_LOAD_TABLE: linear, DYN_ROUTER_POLICY_CONFIG: policy }, {});
    expect(read.faults).toEqual([]);
    expect(read.settings.prefillLoad?.predictMs(500, 0)).toBe(500);
    expect(read.settings.planConfig("m", false).queueRecheckMs).toBe(100);
    expect(readFleetSettings({}, {}).settings.planConfig("m", false).queueRecheckMs).toBe(60_000);
  });

  it.each([
    { model: "none", chosen: 2n, loads: [1600, 800] },
    { model: "ais", chosen: 1n, loads: [0, 700] },
  ])(
    "chooses worker $chosen with $model, where worker 1 should be done with its prompt",
    async ({ model, chosen, loads }) => {
      const clock = { nowMs: 0 };
      const opened = openPrefillRouter({
        blockSize: 16,
        settings: {
          routerPrefillLoadModel: model,
          routerTrackActiveBlocks: false,
          ...(model === "none" ? {} : { routerPrefillLoadTable: linear }),
        },
        now: () => clock.nowMs,
      });
      for (const id of [1n, 2n]) opened.router.upsertWorker(workerOf({ id }));
      plan(opened, 1600, 1n);
      clock.nowMs = 1500;
      plan(opened, 800, 2n);
      clock.nowMs = 1600;
      expect(opened.router.snapshot().loads.decode.map(({ activePrefillTokens }) => activePrefillTokens)).toEqual(
        loads,
      );
      expect(plan(opened, 16).worker.id).toBe(chosen);
      await opened.close();
    },
  );

  it("frees who waits behind a prompt that should be done, with no word from anybody", async () => {
    const opened = openPrefillRouter({
      blockSize: 16,
      settings: {
        routerPrefillLoadModel: "ais",
        routerPrefillLoadTable: linear,
        routerQueueThreshold: 0.5,
      },
    });
    opened.router.upsertWorker(workerOf({ id: 1n, maxNumBatchedTokens: 200 }));
    plan(opened, 250);
    const planned = new Promise<number>((resolve) => {
      opened.router.plan({ requestId: "waits", ...opened.prompt(new Uint32Array(32)) }, (outcome) => {
        resolve(outcome.kind === "planned" ? outcome.plan.decode.activePrefillTokens : -1);
      });
    });
    expect(opened.router.snapshot().queue).toMatchObject([{ requests: 1 }]);
    const left = await planned;
    expect(left).toBeGreaterThanOrEqual(0);
    expect(left).toBeLessThanOrEqual(100);
    await opened.close();
  });
});

let requests = 0;

function plan(open: OpenRouter, isl: number, workerId?: bigint): Leg {
  const allowed = workerId === undefined ? {} : { allowed: { decode: new Set([workerId]) } };
  let leg: Leg | undefined;
  const request = { requestId: `r${requests++}`, ...open.prompt(new Uint32Array(isl)), ...allowed };
  open.router.plan(request, (outcome) => {
    if (outcome.kind === "planned") leg = outcome.plan.decode;
  });
  if (leg === undefined) throw new Error("not planned at once");
  return leg;
}
