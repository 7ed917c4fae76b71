/** What Dynamo's variables ask of AISimulate, by the rules of its frontend. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "@jest/globals";
import { readEstimatorConfig, renamedVariables } from "../../../../src/prefill-router/prefill-load/estimator-config.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-estimator-"));
const described = { backend: "vllm", system: "h200_sxm", model: "m" };
const single = { DYN_AIS_BACKEND: "vllm", DYN_AIS_SYSTEM: "h200_sxm", DYN_AIS_MODEL_PATH: "m" };

function file(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

describe("the estimator's configuration", () => {
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it.each<[string, Readonly<Record<string, string>>, object]>([
    ["single fields, of an aggregated worker", single, { ...described, worker_type: "aggregated" }],
    [
      "every single field under AISimulate's name",
      {
        ...single,
        DYN_AIS_BACKEND_VERSION: "0.19",
        DYN_AIS_TP_SIZE: "8",
        DYN_AIS_MOE_TP_SIZE: "2",
        DYN_AIS_MOE_EP_SIZE: "4",
        DYN_AIS_ATTENTION_DP_SIZE: " 1 ",
        DYN_AIS_NEXTN: "1",
        DYN_AIS_NEXTN_ACCEPT_RATES: "0.8,0.2",
        DYN_AIS_MTP_SEED: "7",
      },
      {
        ...described,
        worker_type: "aggregated",
        backend_version: "0.19",
        tp: 8,
        moe_tp_size: 2,
        moe_ep_size: 4,
        attention_dp: 1,
        nextn: 1,
      },
    ],
    [
      "JSON",
      { DYN_AIS_PERF_CONFIG: ' {"backend":"vllm","system":"h200_sxm","model":"m","worker_type":"prefill","pp":2}' },
      { ...described, worker_type: "prefill", pp: 2 },
    ],
    [
      "a file of JSON",
      { DYN_AIS_PERF_CONFIG: file("whole.json", JSON.stringify({ ...described, worker_type: "prefill" })) },
      { ...described, worker_type: "prefill" },
    ],
    [
      "a file of YAML, beside settings of the simulated engine alone",
      {
        DYN_AIS_PERF_CONFIG: file(
          "whole.yaml",
          "backend: vllm\nsystem: h200_sxm\nmodel: m\nworker_type: prefill\nsystems_paths: [a, b]\n",
        ),
        DYN_AIS_MTP_SEED: "7",
      },
      { ...described, worker_type: "prefill", systems_paths: ["a", "b"] },
    ],
  ])("is read from %s", (_name, environment, config) => {
    expect(readEstimatorConfig(environment)).toEqual({ kind: "config", config });
  });

  it.each([{}, { DYN_AIS_BACKEND: "", DYN_AIS_PERF_CONFIG: "" }, { DYN_AIS_MTP_SEED: "7" }])(
    "is not there with %j",
    (environment) => {
      expect(readEstimatorConfig(environment)).toEqual({ kind: "unset" });
    },
  );

  it.each<[Readonly<Record<string, string>>, string | RegExp]>([
    [{ DYN_AIS_BACKEND: "vllm", DYN_AIS_MODEL_PATH: "m" }, "DYN_AIS_* must say system"],
    [{ DYN_AIS_TP_SIZE: "2" }, "DYN_AIS_* must say backend, system, model"],
    [
      { DYN_AIS_PERF_CONFIG: JSON.stringify({ ...described, model: "" }) },
      "DYN_AIS_PERF_CONFIG must say model, worker_type",
    ],
    [
      { DYN_AIS_PERF_CONFIG: "{}", ...single },
      "DYN_AIS_PERF_CONFIG cannot be combined with DYN_AIS_* of single fields",
    ],
    [{ DYN_AIS_PERF_CONFIG: "{" }, /^DYN_AIS_PERF_CONFIG cannot be read: /],
    [{ DYN_AIS_PERF_CONFIG: file("list.yaml", "- 1\n") }, "DYN_AIS_PERF_CONFIG must be an object"],
    [{ DYN_AIS_PERF_CONFIG: join(scratch, "nowhere") }, /^DYN_AIS_PERF_CONFIG cannot be read: .*ENOENT/],
    [{ ...single, DYN_AIS_TP_SIZE: "two" }, "DYN_AIS_TP_SIZE=two: a whole number expected"],
    [
      { ...single, DYN_AIS_NEXTN_ACCEPT_RATES: "0.5,1.5" },
      "DYN_AIS_NEXTN_ACCEPT_RATES=0.5,1.5: numbers between 0 and 1 expected, with commas between them",
    ],
  ])("is refused with %j", (environment, fault) => {
    const read = readEstimatorConfig(environment);
    expect(read.kind === "faults" ? read.faults : read).toEqual([
      typeof fault === "string" ? fault : (expect.stringMatching(fault) as unknown),
    ]);
  });

  it("names what has another name since Dynamo 1.6", () => {
    expect(renamedVariables({ DYN_AIC_TP_SIZE: "2", DYN_AIC_BACKEND: "vllm", DYN_AIC_OTHER: "1" })).toEqual([
      "DYN_AIC_BACKEND",
      "DYN_AIC_TP_SIZE",
    ]);
  });
});
